"""Checks settings that somebody has sent, in a process that may take its time up to a deadline."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import DEVNULL, PIPE
from typing import Any

from aiohttp import web

from trackproxy.admin.bodies import body_of, read
from trackproxy.admin.orders import TextOrder
from trackproxy.admin.problems import Problem

CHECK_S = 20.0  # with the wait for others' turn
SIZE_BYTES = 1 << 20

_COMMAND = (sys.executable, "-m", "trackproxy.check_process")


class Checks:
    """Checks settings, one file at a time."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def answer(self, request: web.Request) -> web.Response:
        """Check a settings file that was sent, and change nothing."""
        request = request.clone(client_max_size=SIZE_BYTES)
        if request.content_type == "application/json":
            content = (await body_of(request, TextOrder)).text.encode()
        else:
            content = await read(request)
        return web.json_response(await self.check(content))

    async def check(self, content: bytes) -> dict[str, Any]:
        """Return what is to be said of good settings; raises Problem with what is wrong with others."""
        try:
            async with asyncio.timeout(CHECK_S), self._turn:
                found = await _examined(content)
        except TimeoutError:
            text = f"not checked within {CHECK_S:g} s: there is too much to read, or a file that never ends"
            raise Problem(503, text) from None
        problems = found.pop("problems")
        if problems:
            raise Problem(422, "the settings are wrong", problems)
        return {"ok": True, **found}


async def _examined(content: bytes) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(*_COMMAND, stdin=PIPE, stdout=PIPE, stderr=DEVNULL)
    try:
        said, _ = await process.communicate(content)
    finally:
        if process.returncode is None:
            process.kill()
            await asyncio.shield(process.wait())
    if process.returncode:
        raise Problem(422, "the settings are wrong", ["they take too much time or memory to be read"])
    found: dict[str, Any] = json.loads(said)
    return found
