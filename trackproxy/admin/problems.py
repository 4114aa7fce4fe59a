"""Errors as answers: problem details (RFC 9457), whatever went wrong."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus

from aiohttp import web

log = logging.getLogger(__name__)


class Problem(Exception):
    """A request that is not done. detail: why, in one sentence. problems: each reason, if it has several."""

    def __init__(
        self,
        status: int,
        detail: str,
        problems: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.problems = list(problems)
        self.headers = dict(headers or {})


@web.middleware
async def answer_problems(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Turn everything that a handler raises into a problem's answer."""
    try:
        return await handler(request)
    except Problem as problem:
        return answer(problem)
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        detail = f"{request.path} takes {allowed}, not {request.method}"
        return answer(Problem(error.status, detail, headers={"Allow": allowed}))
    except web.HTTPNotFound as error:
        return answer(Problem(error.status, f"there is nothing at {request.path}"))
    except web.HTTPException as error:
        return answer(Problem(error.status, error.text or error.reason))
    except Exception:
        log.exception("unexpected error in the answer to %s %s", request.method, request.path)
        return answer(Problem(500, "an unexpected error, which is in the log"))


def answer(problem: Problem) -> web.Response:
    """Return the answer that tells of a problem."""
    body: dict[str, object] = {
        "type": "about:blank",  # RFC 9457, 4.2.1: the status says what kind it is
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
    }
    if problem.problems:
        body["problems"] = problem.problems
    return web.Response(
        body=json.dumps(body).encode(),
        status=problem.status,
        content_type="application/problem+json",
        headers=problem.headers,
    )
