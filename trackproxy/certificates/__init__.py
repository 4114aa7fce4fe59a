"""Certificates: where they come from, which one a name gets, and how a new one gets in.

Reading order: `sources` (which files there are), `reading` (one certificate), `index` (all of a process, by
name, as they change), `findings` (what is wrong with them, before they are used).
"""
