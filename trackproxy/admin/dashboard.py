"""The dashboard: one page and what it loads, all of it out of this package.

The files are read once, so that a page never mixes two versions of them while a new one is installed. The
browser asks each time whether they have changed (`ETag`). The policy lets the page load and reach nothing but
this address, and run nothing that is not one of these files.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

from aiohttp import ETag, web

FOLDER = "static"
PAGE = "index.html"

TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}  # of what is served; other files, such as licences, are not

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",  # no text becomes markup, not even by mistake
        "trusted-types 'none'",
    )
)
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class File:
    """One file that is served. tag: of its content."""

    content: bytes
    type: str
    tag: str


def routes() -> list[web.RouteDef]:
    """Return the routes of the page and of its files; reads them."""
    found = _read(files(__package__) / FOLDER)

    async def page(request: web.Request) -> web.Response:
        return _answer(request, found[PAGE])

    async def static(request: web.Request) -> web.Response:
        file = found.get(request.match_info["path"])
        if file is None:
            raise web.HTTPNotFound
        return _answer(request, file)

    return [web.get("/", page), web.get(f"/{FOLDER}/{{path:.+}}", static)]


def _read(folder: Traversable, prefix: str = "") -> dict[str, File]:
    """Return the files below FOLDER that are served, by their path in it."""
    found: dict[str, File] = {}
    for entry in folder.iterdir():
        path = prefix + entry.name
        if entry.is_dir():
            found |= _read(entry, f"{path}/")
        elif (type_ := TYPES.get(path[path.rfind(".") :])) is not None:
            content = entry.read_bytes()
            found[path] = File(content, type_, hashlib.sha256(content).hexdigest()[:32])
    return found


def _answer(request: web.Request, file: File) -> web.Response:
    known = request.if_none_match or ()
    unchanged = any(tag.value in (file.tag, "*") for tag in known)
    response = web.Response(status=304, headers=HEADERS) if unchanged else _whole(file)
    response.etag = ETag(file.tag)
    return response


def _whole(file: File) -> web.Response:
    return web.Response(body=file.content, content_type=file.type, charset="utf-8", headers=HEADERS)
