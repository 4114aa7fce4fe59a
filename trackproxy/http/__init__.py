"""The HTTP data path: uvloop protocols with llhttp as the one parser of fields.

Reading order: `fields` and `heads` (what a message says), `cookies`, `framing` and `answer_body` (where its
body ends), `answers` (what we say ourselves), `identity` and `agents` (who asked), `matching` (which
traffic class it is), `retry` (what may be sent again), `edge` (a client connection from top to bottom),
`upstream` (a node connection; its pace is in `flow`), `channel` (the way to one endpoint), `group` (the
endpoints of some routes), `route` (how a class is treated), `sticking` (where clients belong), `quotas` and
`gate` (who may come in), `service` (the way of a request), `arrivals` (clients that begin with TLS or a
PROXY header), `means` (what services share), `queue` (who waits for room), `second_tries` (what becomes of
failed attempts), `departures` (endpoints that are taken out).
"""
