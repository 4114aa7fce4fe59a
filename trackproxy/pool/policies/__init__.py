"""Policies: how one endpoint is picked among those that may be picked.

In reading order: `base` (what a policy is), `shares` (turns by weight, exactly), `round_robin`,
`least_connections`, `random_two`, `source_hash`, `table` (their names in the configuration).
"""
