"""What is known of endpoints: `probes` (one look at one of them; `connecting` and `reasons` are its parts),
`verdict` and `slow_start` (what looks add up to), `checker` (when to look), `outliers` (what live traffic
says).
"""
