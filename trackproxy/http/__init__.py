"""The HTTP data path: uvloop protocols with llhttp as the one parser of fields.

Reading order: `fields` and `heads` (what a message says), `framing` and `answer_body` (where its body ends),
`answers` (what we say ourselves), `identity` (who asked), `retry` (what may be sent again), `edge` (a client
connection from top to bottom), `upstream` (a node connection; its pace is in `flow`), `channel` (the way to
one endpoint), `service` (the way of a request), `queue` (who waits for room), `second_tries` (what becomes of
failed attempts), `departures` (endpoints that are taken out).
"""
