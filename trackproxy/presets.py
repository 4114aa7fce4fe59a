"""Presets: the routes of known list managers and mailers, as data; in each, the first match wins.

Prefixes and regular expressions are those of `http/matching.py`: they see the path without its query. Each
form was found in the system's documentation or its published sources, unless it says "assumed". All but
phpList's take the system to be at the root of its host. Only web is sticky: it alone has sessions.
"""

from __future__ import annotations

from dataclasses import dataclass

_UUID = "[0-9a-fA-F-]{36}"


@dataclass(frozen=True, slots=True)
class PresetRoute:
    """One traffic class. Without prefixes and regex it is for any path, without methods for any method."""

    name: str
    prefixes: tuple[str, ...] = ()
    regex: str = ""
    methods: tuple[str, ...] = ()
    sticky: bool = False


WEB = PresetRoute("web", sticky=True)
"""The rest, in each of them."""

LIST_MANAGER = (
    PresetRoute("open", prefixes=("/db/",)),
    PresetRoute("click", prefixes=("/t/",)),
    # Assumed: /u/…, /u123/…, /unsub…; a prefix "/u" would take /users and /upload away from their sessions.
    PresetRoute("unsubscribe", regex=r"^/u(?:[/0-9]|nsub|\Z)"),
    WEB,
)
"""For clusters of list-manager nodes, with the forms of their manual."""

LISTMONK = (
    PresetRoute("open", regex=rf"^/campaign/{_UUID}/{_UUID}/px\.png\Z"),  # without px.png: the mail as a page
    PresetRoute("click", prefixes=("/link/",)),
    PresetRoute("unsubscribe", regex=rf"^/subscription/{_UUID}/{_UUID}\Z"),  # /subscription/form subscribes
    WEB,
)
"""For listmonk."""

MAUTIC = (
    PresetRoute("open", regex=r"^/email/[^/]+\.gif\Z"),
    PresetRoute("click", prefixes=("/r/", "/redirect/")),  # the second is the older form
    PresetRoute(
        "unsubscribe", prefixes=("/email/unsubscribe/", "/email/dnc/")
    ),  # the second: from everything
    WEB,
)
"""For Mautic; its trackers for landing pages (/mtracking.gif, /mtc) are web, for they live on cookies."""

PHPLIST = (
    PresetRoute("open", prefixes=("/lists/ut.php",)),
    PresetRoute("click", prefixes=("/lists/lt.php",)),
    WEB,
)
"""For phpList in its usual place, /lists/; unsubscribing is web, since only its query tells."""

SENDY = (
    PresetRoute("open", prefixes=("/t/",)),
    PresetRoute("click", prefixes=("/l/",)),
    PresetRoute("unsubscribe", prefixes=("/unsubscribe/",)),
    WEB,
)
"""For Sendy."""

PRESETS: dict[str, tuple[PresetRoute, ...]] = {
    "list-manager": LIST_MANAGER,
    "listmonk": LISTMONK,
    "mautic": MAUTIC,
    "phplist": PHPLIST,
    "sendy": SENDY,
}
