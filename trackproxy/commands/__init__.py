"""Commands of operators to a running trackproxy.

In reading order: `operator` (who asks, and how to answer), `place` and `connection` (which trackproxy, and an
exchange with it), `client` and `event_stream` (what its API does), `program_commands` and `node_commands`,
`panels` (groups of commands), `drain` and `progress` (waiting for an end), `events` (following them),
`table`, `services`, `program`, `aligned`, `figures`, `terminal` (what is shown, as text), `top` (live),
`completion` (words in shells). `check`, `which` and `token` need none that runs.
"""
