"""The benchmark: trackproxy and its peers in front of the same nodes, measured in turns.

In reading order: `peers` (who is measured and how each is started), `conf/` (their configurations, for
judging the fairness), `nodes` (what they forward to), `load` and `heads.lua` (the requests), `rounds` (the
main measurement), `soak`, `bodies` with `byte_node`, `idle` and `probing` (the others), `table` (what is
printed); beneath them `children`, `usage` and `machine`. Forwarding bytes has its own: `tcp_peers`,
`tcp_node`, `tcp_load`, `tcp` and `tcp_idle`; and so has TLS: `tls_peers`, `tls_load` and `tls`. `variants`
puts trackproxy beside itself with other settings. `measurements` makes results of them all, as the command
line asks for.
"""
