"""Commands of operators to a running trackproxy.

In reading order: `operator` (who asks, and how to answer), `place` and `connection` (which trackproxy, and an
exchange with it), `client` (all that its API does), `program_commands` and `node_commands` (the commands),
`panels` (their groups), `drain` and `progress` (waiting for an end), `table`, `services`, `program` (what is
shown, as text), `completion` (words in shells). `which` needs none that runs.
"""
