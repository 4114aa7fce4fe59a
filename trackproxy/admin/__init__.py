"""The operator's way in: `api` (routes), `orders` and `bodies` (what comes), `nodes` and `overview` (what is
told), `versions` (of nodes), `check` (of settings), `answers` and `openapi` (all of it for programs),
`problems` (errors as answers), `access` and `guard` (who may), `unix_socket`, `listener` and `endpoint`
(where it is reached), `dashboard` (the page that shows it all; its files are in `static`)."""
