"""Bodies of requests: of bounded size, there in bounded time, and what they are taken for or a problem."""

from __future__ import annotations

import asyncio
import json
from typing import TypeVar

from aiohttp import web
from pydantic import ValidationError

from trackproxy.admin.orders import Nothing
from trackproxy.admin.problems import Problem
from trackproxy.explain import problems_of

BODY_BYTES = 64 * 1024
BODY_S = 10.0  # for a body to arrive

Body = TypeVar("Body", bound=Nothing)


async def read(request: web.Request) -> bytes:
    """Return the request's body."""
    try:
        async with asyncio.timeout(BODY_S):
            return await request.read()
    except TimeoutError:
        raise Problem(408, f"the body did not arrive within {BODY_S:g} s") from None


async def body_of(request: web.Request, kind: type[Body]) -> Body:
    """Return the request's body as KIND; an empty one is {}."""
    text = await read(request)
    try:
        tree = json.loads(text or b"{}")
    except (ValueError, RecursionError) as error:
        raise Problem(400, f"the body is not JSON: {error}") from None
    if not isinstance(tree, dict):
        raise Problem(400, 'the body must be a JSON object, such as {"timeout": "30s"}')
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        problems = [str(problem) for problem in problems_of(error, kind)]
        raise Problem(400, "; ".join(problems), problems) from None
