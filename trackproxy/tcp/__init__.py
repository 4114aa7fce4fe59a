"""Raw TCP: sessions of NNTP, SMTP or anything else, each relayed to one node.

Reading order: `greeting` and `dialogue` (what nodes and clients say, as far as it matters here), `relay`
(bytes both ways, with `pipes` for large amounts), `tls_relay` (the same where TLS ends here), `way` and
`dial` (a connection to one endpoint, up to its greeting), `clients` (how a client is told and left),
`session` (one client from its first byte to its last), `arrivals` (who may come in), `forwarder` (what the
sessions of a service share, and how each finds its node).
"""
