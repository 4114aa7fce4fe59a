"""Lists as answers: written once for all who wait for them (see `turns`), packed for whoever takes that."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable
from typing import Any

from aiohttp import web
from pydantic_core import to_json

from trackproxy.admin.turns import Turns

PACKED_BYTES = 16 * 1024  # what is shorter is sent as it is
LEVEL = 1  # a tenth of the size for a few milliseconds in a thread


class Listing:
    """One list that may be long. find: returns it as JSON has it, or raises Problem."""

    def __init__(self, find: Callable[[], dict[str, Any]]) -> None:
        self._find = find
        self._turns = Turns(self._write)

    async def answer(self, request: web.Request) -> web.Response:
        """Return the list as it is from now on."""
        body = await self._turns.next("gzip" if takes_gzip(request) else "")
        response = web.Response(body=body, content_type="application/json", charset="utf-8")
        response.headers["Vary"] = "Accept-Encoding"
        if body.startswith(b"\x1f\x8b"):  # as no JSON does
            response.headers["Content-Encoding"] = "gzip"
        return response

    async def _write(self, wanted: str) -> bytes:
        body = to_json(self._find())
        if not wanted or len(body) < PACKED_BYTES:
            return body
        return await asyncio.to_thread(gzip.compress, body, LEVEL)


def takes_gzip(request: web.Request) -> bool:
    """Whether gzip is named in Accept-Encoding (RFC 9110, 12.5.3) and not ruled out by "q=0"."""
    for line in request.headers.getall("Accept-Encoding", []):
        for part in line.lower().split(","):
            name, _, quality = (word.strip() for word in part.partition(";"))
            if name == "gzip":
                return quality.replace(" ", "").rstrip("0") not in ("q=", "q=0.", "q=.")
    return False
