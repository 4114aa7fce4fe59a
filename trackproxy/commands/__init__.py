"""Commands of operators to a running trackproxy.

In reading order: `operator` (who asks, and how to answer), `place` and `connection` (which trackproxy, and an
exchange with it), `client` and `event_stream` (all that its API does), `program_commands`, `node_commands` (the
commands), `panels` (their groups), `drain` and `progress` (waiting for an end), `events` (following them),
`table`, `services`, `program`, `aligned`, `figures`, `terminal` (what is shown, as text), `top` (a live view),
`completion` (words in shells). `check`, `which` and `token` need none that runs.
"""
