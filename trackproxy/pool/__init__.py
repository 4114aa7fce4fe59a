"""The pool: which endpoint takes the next request, in plain counting, without sockets or a clock.

In reading order: `nodes` (what operators say of a machine), `endpoints` (one node as one service sees it),
`policies` (how one of several is picked), `panic` (when probes are not believed), `balancer` (who may be
picked at all, and the counts), `stickiness` and `learned` (which node a client belongs to), `leases` (how
workers share a limit), `admission`, `limits` and `rates` (what one client may have).
"""
