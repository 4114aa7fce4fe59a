"""Plain sockets inside the event loop, before anybody speaks a protocol on them.

Reading order: `poller` (who hears of sockets), `listening` (taking connections), `entrance` (what a trusted
proxy says about its client), `secure` (TLS of the event loop, with what it does not tell).
"""
