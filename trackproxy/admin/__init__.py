"""The operator's way in: `api` (routes), `reading` and `changing` (their answers), `present` (what there is),
`orders` and `bodies` (what comes), `nodes`, `overview`, `listing` and `event_stream` (what is told),
`metrics` (for Prometheus), `versions` (of nodes), `check` (of settings), `answers` and `openapi` (all of it
for programs), `problems` (errors as answers), `access` and `guard` (who may), `turns` (when), `unix_socket`,
`listener` and `endpoint` (where it is reached), `dashboard` (the page that shows it all, in `static`)."""
