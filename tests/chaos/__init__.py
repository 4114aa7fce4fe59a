"""Fault injection: does a proxy lose requests while nodes, workers and configurations come and go?

Black-box: the proxy is `trackproxy serve -c FILE` in processes of its own, between three nodes that record
what reaches them and a load that checks every answer.

In reading order: `faults` (the rows: what is done to whom), `runs` (one row from start to end), `figures`
(what is counted and what must hold), `node` and `nodes`, `client` and `load` (each a program and its handle),
`tally`, `proxy`, `wiretap`, `talk`, `processes`, `table`, and `__main__`, the command of `scripts/chaos`.
"""
