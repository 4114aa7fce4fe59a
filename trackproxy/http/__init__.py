"""The HTTP data path: uvloop protocols with llhttp as the one parser of fields.

Reading order: `fields` and `heads` (what a message says), `framing` (where its body ends), `answers` (what we
say ourselves), `identity` (who asked), `retry` (what may be sent again), `edge` (one client connection from
top to bottom), `upstream` (one node connection), `channel` (the way to one endpoint), `tunnel` (after a
protocol switch), `service` (who serves a request: queueing, retrying).
"""
