"""Access logs: one line for each request or session, made without the disk and written beside the event loop.

In reading order: `names` says what a line can tell, `lines` makes one of it, `writer` brings lines to files.
What happened is gathered in `http.access` and `tcp.access`.
"""
