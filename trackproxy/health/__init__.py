"""What is known of endpoints: `probes` and `session_probes` (one look at one of them; `looking`, `connecting`
and `reasons` are their parts), `verdict` and `slow_start` (what looks add up to), `checker` (when to look),
`outliers` (what live traffic says) and `ejections` (what follows from it).
"""
