"""The operator's way in: `api` (routes), `nodes` (what is told of nodes), `problems` (errors as answers),
`unix_socket` (where it is reached)."""
