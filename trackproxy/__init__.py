"""trackproxy: a load balancer for clusters of list-manager nodes.

Reading order: `settings` (what may be configured), `pool` (nodes, endpoints, policies), `http` (the
data path), `worker` (the services of one process), `supervisor` (sockets, signals), `cli`.
"""
