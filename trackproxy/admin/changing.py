"""The answers to POST, PATCH and DELETE: who may change what has been asked already, see `guard`."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import TypedDict
from urllib.parse import quote

from aiohttp import web

from trackproxy.admin.bodies import Body, body_of
from trackproxy.admin.guard import CALLER
from trackproxy.admin.orders import DrainOrder, NodeOrder, Nothing, ValuesOrder
from trackproxy.admin.present import Operated, Present
from trackproxy.admin.problems import Problem
from trackproxy.admin.versions import etag, expected
from trackproxy.control.turns import OnlyIf
from trackproxy.errors import ConfigError, Conflict, NotChanged, Outdated, TrackproxyError
from trackproxy.units import Address


class Terms(TypedDict, total=False):
    """On which terms a node is changed: who has asked for it, and what must hold at that moment."""

    who: str
    only_if: OnlyIf


class Changing:
    """The answers to all routes that change something."""

    def __init__(self, operated: Operated, present: Present) -> None:
        self._operated = operated
        self._present = present
        self._states = operated.node_states
        self._values = operated.node_values

    async def drain(self, request: web.Request) -> web.Response:
        """Begin to drain a node, or change how; what comes of it is seen in the node."""
        name, order = await self._order(request, DrainOrder)
        work = self._states.drain(name, order.timeout, order.sticky, **self._terms(request, name))
        return await self._changed(work, name)

    async def disable(self, request: web.Request) -> web.Response:
        """Send nothing to a node any more."""
        name, _ = await self._order(request, Nothing)
        return await self._changed(self._states.disable(name, **self._terms(request, name)), name)

    async def ready(self, request: web.Request) -> web.Response:
        """Let a node take part again; one that was disabled is probed first."""
        name, _ = await self._order(request, Nothing)
        try:
            return await self._changed(self._states.ready(name, **self._terms(request, name)), name)
        except KeyError:
            raise self._present.unknown(name) from None  # a reload has dropped it while it was probed

    async def change(self, request: web.Request) -> web.Response:
        """Change weight or limit of a node, in all services or in one; it goes on if whoever asked goes."""
        service = request.match_info.get("service", "")
        self._present.must_be_service(service)
        name, order = await self._order(request, ValuesOrder)
        values = order.model_dump(include=order.model_fields_set)
        if not values:
            raise Problem(400, "nothing is to be changed: give weight, max_connections or both")
        work = self._values.change(name, values, service, **self._terms(request, name))
        return await self._changed(work, name)

    async def add(self, request: web.Request) -> web.Response:
        """Serve with one node more."""
        self._present.must_be_welcoming()
        order = await body_of(request, NodeOrder)
        settings = order.model_dump(exclude={"name", "address"}, exclude_none=True)
        address = _as_written(order.address)
        work = self._values.add(order.name, address, settings, request[CALLER].who)
        response = await self._changed(work, order.name)
        response.set_status(201)
        response.headers["Location"] = f"/api/v1/nodes/{quote(order.name, safe='')}"
        return response

    async def remove(self, request: web.Request) -> web.Response:
        """Serve without a node that was added at run time."""
        name, _ = await self._order(request, Nothing)
        await _done(self._values.remove(name, **self._terms(request, name)))
        return web.json_response({"outcome": f"removed: {name}"})

    async def reload(self, request: web.Request) -> web.Response:
        """Read the settings again and serve them; it goes on even if whoever asked goes away."""
        self._present.must_be_welcoming()
        await body_of(request, Nothing)
        try:
            outcome = await self._operated.reloads.reload(request[CALLER].who)
        except ConfigError as error:
            raise Problem(422, "not reloaded, the settings are wrong", error.problems) from error
        except TrackproxyError as error:
            raise Problem(422, "not reloaded", [str(error)]) from error
        return web.json_response({"outcome": outcome})

    def _terms(self, request: web.Request, name: str) -> Terms:
        """Return who asks for a change of node NAME, and whether it depends on the node's version."""
        terms: Terms = {"who": request[CALLER].who}
        if lines := request.headers.getall("If-Match", []):
            terms["only_if"] = self._only_if(name, lines)
        return terms

    def _only_if(self, name: str, lines: Sequence[str]) -> OnlyIf:
        try:
            versions = expected(lines)
        except ValueError as error:
            raise Problem(400, str(error)) from None

        def check() -> None:
            there = name in self._operated.cluster.states
            version = self._present.version(name) if there else ""
            if there and (versions is None or version in versions):
                return
            now = f"its version is now {etag(version)}" if there else "it is gone"
            raise Outdated(f"{name} has been changed by somebody else meanwhile: {now}", version)

        return check

    async def _order(self, request: web.Request, kind: type[Body]) -> tuple[str, Body]:
        """Return the node that is meant, and what is to be done with it."""
        self._present.known(request)
        body = await body_of(request, kind)
        self._present.must_be_welcoming()
        return self._present.known(request), body  # still, after the wait for the body

    async def _changed(self, work: Awaitable[object], name: str) -> web.Response:
        """Wait for a change of node NAME, and return what it is now."""
        await _done(work)
        return self._present.one(self._present.still_known(name))


def _as_written(address: Address) -> str:
    """Return the address of a node as settings have it: without a port if it has none."""
    return str(address) if address.path or address.port else str(address).removesuffix(":0")


async def _done(work: Awaitable[object]) -> None:
    """Wait for a change; what has not been changed is a problem."""
    try:
        await work
    except Outdated as error:
        headers = {"ETag": etag(error.version)} if error.version else None
        raise Problem(412, str(error), headers=headers) from error
    except NotChanged as error:
        status = 409 if isinstance(error, Conflict) else 422
        raise Problem(status, "; ".join(error.problems), error.problems) from error
    except TrackproxyError as error:
        raise Problem(422, "not changed", [str(error)]) from error
