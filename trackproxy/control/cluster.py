"""The cluster as the supervisor knows it: what operators, probes and time say of nodes and endpoints.

What is known of an endpoint is written on the board of each generation of workers that still runs.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from operator import add
from pathlib import Path
from typing import Any

import aiohttp

from trackproxy.board import GAUGES, ROW, Board, Counter, Process, State
from trackproxy.control.memory import HealthMemory
from trackproxy.control.panics import Panics
from trackproxy.control.probing import Probing
from trackproxy.control.sharing import lease_first
from trackproxy.control.traffic import RouteKey, RouteTotals, by_name, from_names
from trackproxy.control.views import Key, Probed, Row, View, Watched, left, totals
from trackproxy.health.looking import Result
from trackproxy.health.slow_start import share as share_of_weight
from trackproxy.health.verdict import Verdict
from trackproxy.pool.learned import carry
from trackproxy.pool.nodes import AdminState
from trackproxy.session_sections import SessionService
from trackproxy.settings import AnyService, EndpointConfig, Settings, groups_of, routes_of
from trackproxy.step import BEAT_S
from trackproxy.telling import tell

log = logging.getLogger(__name__)

ADMIN_NUMBERS = {AdminState.READY: 0, AdminState.DRAIN: 1, AdminState.DISABLED: 2}
UP, DOWN, STARTING = range(3)


class Cluster:
    """Nodes and endpoints of all services.

    states: what operators want of each node. moving: those whose sticky clients shall go elsewhere. views:
    the boards of the generations that run, newest last.
    adopted: set when there is another view. on_probe: called with each result of a probe.
    """

    def __init__(self, folder: Path, session: aiohttp.ClientSession) -> None:
        """FOLDER: where health is kept. SESSION: what probes go through; see `open_session`."""
        self._memory = HealthMemory(folder)
        self._probing = Probing(session, self._heard)
        self._watched: dict[Key, Watched] = {}
        self._panics = Panics()
        self._coming: list[Row] = []  # of a view that is not adopted yet
        self._handed: dict[str, Mapping[str, Any]] = {}
        self._routes = RouteTotals()
        self.states: dict[str, AdminState] = {}
        self.moving: set[str] = set()
        self.views: list[View] = []
        self.adopted = asyncio.Event()
        self.on_probe: Callable[[Key, Result], None] = lambda key, result: None

    # --- upgrades ---

    def hand_over(self) -> tuple[dict[str, str], dict[str, dict[str, object]], dict[str, object]]:
        """Return what operators want of nodes, what is known of endpoints by the text of their keys, and what
        was counted besides.
        """
        now = asyncio.get_running_loop().time()
        totals = self.totals()
        endpoints: dict[str, dict[str, object]] = {
            str(key): {
                "up": watched.verdict.up,
                "back_s": now - watched.back,
                "pardons": watched.pardons,
                "ends": watched.ends,
                "carried": by_name(Counter, watched.carried),
                "totals": by_name(Counter, totals[key]),
                "probed": asdict(watched.probed),
            }
            for key, watched in self._watched.items()
        }
        states = {name: state.value for name, state in self.states.items()}
        return states, endpoints, self._routes.hand_over(self.views)

    def take_over(
        self,
        states: Mapping[str, str],
        endpoints: Mapping[str, Mapping[str, Any]],
        traffic: Mapping[str, Any],
        *,
        counted: bool,
    ) -> None:
        """Begin with what `hand_over` of another program has returned.

        counted: the boards of its workers can be read, and count on.
        """
        self.states = {name: AdminState(state) for name, state in states.items()}
        self._handed = {
            key: {**known, "carried": known["carried" if counted else "totals"]}
            for key, known in endpoints.items()
        }
        self._routes.take_over(traffic, counted=counted)

    def adopt_view(self, view: View) -> None:
        """Take over the board of a generation that another program has started."""
        self.views.append(view)
        self.adopted.set()
        for row in view.rows:
            self._watched[row.watched.key] = row.watched

    def begin_with(self, wanted: Mapping[str, AdminState], moving: Iterable[str]) -> None:
        """Begin with what operators WANTED of nodes before, and those whose sticky clients were MOVING."""
        self.states, self.moving = dict(wanted), {*moving}

    # --- configurations ---

    def rows_of(self, settings: Settings) -> list[Row]:
        """Return the endpoints of SETTINGS in the order of their board."""
        return [
            Row(self._find(name, group.name, config, group.service), config, group.service)
            for name in settings.services
            for group in groups_of(settings, name)
            for config in group.endpoints
        ]

    async def view(self, settings: Settings, workers: int) -> View:
        """Return a board for so many WORKERS; of endpoints that are new, the state is found out first.

        Nothing else changes until `adopt`.
        """
        rows = self._coming = self.rows_of(settings)
        await self._find_out(rows)
        routes = len(routes_of(settings))
        view = View(Board.create(len(rows), max(workers, 1), routes, self._secret()), rows, settings)
        lease_first(view, {*self._watched})
        self._carry_ejections(view)
        _carry_learned(self.views, view)
        self._write(view)
        return view

    def _secret(self) -> bytes:
        """Return the secret of the boards so far, nothing if there is none yet."""
        return self.views[-1].board.secret if self.views else b""

    def _carry_ejections(self, view: View) -> None:
        """Leave out in VIEW what is left out now: in cells of its first worker, which has not started."""
        for index, row in enumerate(view.rows):
            until_ms = self._ejected_until_ms(row.watched)
            view.board.counters(0, index)[Counter.EJECTED_UNTIL] = until_ms

    def adopt(self, view: View) -> None:
        """Make VIEW the newest one: probe what it names, forget endpoints that no view names."""
        self.views.append(view)
        self._coming = []
        self.adopted.set()
        self.states = {name: self.states.get(name, AdminState.READY) for name in view.settings.nodes}
        for row in view.rows:
            self._watched[row.watched.key] = row.watched
            self._probing.follow(row, disabled=self.states[row.config.node] is AdminState.DISABLED)
        self._forget()
        self._remember()
        self.publish()

    def reweigh(self, settings: Settings) -> None:
        """Serve SETTINGS, which differ in weights alone, with the workers that run."""
        newest = self.views[-1]
        newest.settings, newest.rows = settings, self.rows_of(settings)
        weights = {row.watched.key: row.config.weight for row in newest.rows}
        for view in self.views[:-1]:
            view.rows = [row.weighing(weights.get(row.watched.key, row.config.weight)) for row in view.rows]
        self.publish()

    def leave(self, view: View) -> None:
        """The workers of VIEW are gone: keep their totals, if it was ever adopted."""
        if view in self.views:
            self.views.remove(view)
            view.carry()
            self._routes.carry(view)
        else:
            self._coming = []
        self._forget()
        view.board.close()

    def _find(self, name: str, route: str, config: EndpointConfig, service: AnyService) -> Watched:
        key = Key(name, config.node, str(config.address), route)
        if known := self._watched.get(key):
            return known
        watched = Watched(key, Verdict(service.probe.rise, service.probe.fall, up=True))
        if handed := self._handed.pop(str(key), None):
            watched.verdict.up = self._memory.up[str(key)] = handed["up"]
            watched.back = asyncio.get_running_loop().time() - handed["back_s"]
            watched.pardons, watched.ends = handed["pardons"], handed["ends"]
            watched.carried = from_names(Counter, ROW, handed["carried"])
            for gauge in GAUGES:
                watched.carried[gauge] = 0
            watched.probed = Probed(**handed.get("probed", {}))
        return watched

    async def _find_out(self, rows: list[Row]) -> None:
        """Learn the state of endpoints never seen: from the last run, else by one probe."""
        unknown = []
        for row in rows:
            if row.watched.key in self._watched or row.service.probe.type == "off":
                continue
            remembered = self._memory.up.get(str(row.watched.key))
            if remembered is not None:
                row.watched.verdict.up = remembered
            elif self.states.get(row.config.node) is not AdminState.DISABLED:  # probed when ready again
                unknown.append(row)
        await self._probing.first(unknown)

    def _forget(self) -> None:
        named = {
            row.watched.key for rows in (self._coming, *(view.rows for view in self.views)) for row in rows
        }
        for key in [key for key in self._watched if key not in named]:
            self._probing.stop(self._watched[key])
            self._bequeath(self._watched.pop(key))
        self._routes.forget(self.views)

    def _bequeath(self, gone: Watched) -> None:
        """Add what was counted of an endpoint to that which its node has there now, under another address."""
        for heir in self._watched.values():
            if heir.key._replace(address="") == gone.key._replace(address=""):
                heir.carried = [*map(add, heir.carried, gone.carried)]
                heir.probed.add(gone.probed)
                return

    # --- probes ---

    def suspect(self, view: View, index: int) -> None:
        """Live traffic speaks against an endpoint: probe it at once."""
        checker = view.rows[index].watched.checker
        if checker is not None:
            checker.poke(suspected=True)

    def _remember(self) -> None:
        self._memory.keep({str(key): watched.verdict.up for key, watched in self._watched.items()})

    def _heard(self, watched: Watched, service: AnyService, result: Result, changed: bool) -> None:
        """Take the result of a probe."""
        watched.last, watched.last_at = result, time.time()
        watched.probed.count(result)
        self.on_probe(watched.key, result)
        if changed:
            up = watched.verdict.up
            _tell_health(watched.key, result.reason, up=up)
            if up:
                watched.back = asyncio.get_running_loop().time()
            self._remember()
        now_ms = asyncio.get_running_loop().time() * 1000
        pardoned = result.passed and self._ejected_until_ms(watched) > now_ms
        watched.pardons += pardoned
        if changed or pardoned:
            self.publish()

    def _ejected_until_ms(self, watched: Watched) -> int:
        """Return until when any worker leaves an endpoint out, on the loop's clock; 0 if none ever did."""
        found = [
            until_ms
            for view in self.views
            for row, until_ms in zip(view.rows, view.board.ejected_until(), strict=True)
            if row.watched is watched
        ]
        return max(found, default=0)

    # --- what operators say ---

    def set_state(self, node: str, state: AdminState) -> None:
        """Change what operators want of NODE; raises KeyError if there is none of that name."""
        before = self.states[node]
        self.states[node] = state
        if before is state:
            return
        said = ("node %s: %s, was %s", node, state.value, before.value)
        tell(log, logging.INFO, "node_state", *said, node=node, state=state.value, was=before.value)
        for row in self.rows(node):
            if state is AdminState.READY:
                row.watched.back = asyncio.get_running_loop().time()
            self._probing.follow(row, disabled=self.states[row.config.node] is AdminState.DISABLED)
        self.publish()

    def set_moving(self, node: str, *, moving: bool) -> None:
        """Say whether clients that belong to NODE go elsewhere while it drains."""
        (self.moving.add if moving else self.moving.discard)(node)
        self.publish()

    def has_sticky_clients(self, node: str, *, ever: bool = False) -> bool:
        """Whether clients belong to NODE, as far as its services are sticky and have given it any.

        ever: or may have come with a cookie of ours from before this program began.
        """
        if ever and any(_gives_cookies(row.service) for row in self.rows(node)):
            return True
        totals = self.totals()
        return any(
            totals[row.watched.key][Counter.STICKY_NEW] + totals[row.watched.key][Counter.STICKY_KEPT] > 0
            for row in self.rows(node)
        )

    async def look_at(self, node: str) -> None:
        """Probe the endpoints of NODE, which was disabled, before anybody is sent there."""
        await self._probing.first(self.rows(node))

    def end(self, node: str) -> None:
        """Have the workers end whatever is left on NODE."""
        for row in {row.watched.key: row for view in self.views for row in view.rows}.values():
            if row.config.node == node:
                row.watched.ends += 1
        self.publish()

    def rows(self, node: str | None = None) -> Iterator[Row]:
        """Yield the endpoints of NODE, or all, as newly configured."""
        for row in self.views[-1].rows if self.views else ():
            if node is None or row.config.node == node:
                yield row

    # --- boards ---

    def publish(self) -> None:
        """Write everything on all boards, for the workers to follow."""
        for view in self.views:
            self._write(view)
        self._panics.look(self.rows(), self.states)

    def _write(self, view: View) -> None:
        now = asyncio.get_running_loop().time()
        for index, (watched, config, service) in enumerate(view.rows):
            cells = view.board.state(index)
            percent = share_of_weight(now - watched.back, service.slow_start)
            cells[State.ADMIN] = ADMIN_NUMBERS[self.states.get(config.node, AdminState.READY)]
            cells[State.HEALTH] = DOWN if not watched.verdict.up else UP if percent == 100 else STARTING
            cells[State.WEIGHT] = config.weight * percent if service.slow_start else config.weight
            cells[State.STICKY] = config.node in self.moving
            cells[State.PARDONS] = watched.pardons
            cells[State.ENDS] = watched.ends
        view.board.publish()

    def panics(self, label: str) -> bool:
        """Whether probes of a service, or of a route with endpoints of its own, are not believed now."""
        return label in self._panics

    # --- time ---

    def pause_s(self, most_s: float) -> float:
        """Return how long to wait until `pass_time`: a step of the shortest slow start, MOST_S at most."""
        steps = [row.service.slow_start / 10 for row in self.rows() if row.service.slow_start]
        return max(min([most_s, *steps]), BEAT_S)

    def pass_time(self) -> None:
        """Let weights grow that are on their way up."""
        now = asyncio.get_running_loop().time()
        if any(now - row.watched.back <= row.service.slow_start + 2 for row in self.rows()):
            self.publish()

    # --- what is counted ---

    def heard(self) -> Callable[[], bool]:
        """Return what says whether each worker that runs now has followed what was published before.

        Then all is told, too, that it had begun until it followed.
        """
        before = [beats for view in self.views for beats in view.beats()]
        return lambda: all(process[Process.HEARTBEAT] != beat for process, beat in before)

    def left(self, nodes: Iterable[str]) -> dict[str, dict[str, int]]:
        """Return what is open on each of these NODES: requests, tunnels, sessions, idle connections."""
        return left(self.views, nodes)

    def totals(self) -> dict[Key, list[int]]:
        """Return the counters of each endpoint over all workers that ever ran, by the board's Counter."""
        return totals(self.views, self._watched.values())

    def route_totals(self) -> dict[RouteKey, list[int]]:
        """Return what is counted of each route over all workers that ever ran, by the board's Traffic."""
        return self._routes.of(self.views)

    @property
    def crashes(self) -> int:
        """How many workers have died, and were replaced."""
        return self._routes.crashes(self.views)

    def stop(self) -> None:
        """Probe no more."""
        for watched in self._watched.values():
            self._probing.stop(watched)


def _tell_health(key: Key, reason: str, *, up: bool) -> None:
    states = {"state": "up", "was": "down"} if up else {"state": "down", "was": "up"}
    where = {"service": key.label, "node": key.node, "address": key.address}
    said = ("%s: node %s (%s) is %s: %s", *where.values(), states["state"], reason)
    tell(log, logging.INFO if up else logging.WARNING, "health", *said, **where, **states, reason=reason)


def _gives_cookies(service: AnyService) -> bool:
    return not isinstance(service, SessionService) and service.sticky.mode == "cookie"


def _carry_learned(views: list[View], view: View) -> None:
    """Let the workers of VIEW, none of which has started, know what the others have learned of sessions."""
    tables = [old.board.learned(worker) for old in views for worker in range(old.board.workers)]
    if tables:
        carry(tables, view.board.learned(0))
