"""Keeps a worker's services in step with the board: tells what it has, and follows what others say.

`take` is called every BEAT_S, so that each side sees the other's cells at most two beats late; less often
while there is no client.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sized
from dataclasses import dataclass
from functools import partial

from trackproxy.board import Board, Counter, Process, State, Traffic
from trackproxy.pool.endpoints import Endpoint, Health
from trackproxy.pool.nodes import AdminState
from trackproxy.served import Group, Served
from trackproxy.units import Address

BEAT_S = 0.025
IDLE_BEAT_S = 0.1
LATE_WINDOW_S = 5.0

ADMIN_STATES = (AdminState.READY, AdminState.DRAIN, AdminState.DISABLED)  # by their number on the board
HEALTHS = (Health.UP, Health.DOWN, Health.STARTING)


@dataclass(slots=True, eq=False)
class _Seat:
    """One endpoint in its place on the board.

    idle: its idle connections. told: its gauges and its totals, as last told. pardons, ends: as last seen.
    answers: how many it has given; since: when that was noticed, seconds.
    """

    group: Group
    endpoint: Endpoint
    idle: Sized
    told: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)
    pardons: int = 0
    ends: int = 0
    answers: int = 0
    since: float = math.inf


class Lateness:
    """How late beats come: what else has kept the loop from turning.

    The worst one that is told is that of the window that runs and of the one before, so that nothing is
    missed by who looks every LATE_WINDOW_S.
    """

    def __init__(self, process: memoryview) -> None:
        self._process = process
        self._due = math.inf
        self._window_ends = -math.inf
        self._worst_us = self._worst_before_us = 0

    def beat(self, now: float, pause_s: float) -> None:
        """The loop has turned; the next beat is due PAUSE_S from NOW, seconds of a clock that goes on."""
        late_us = max(int((now - self._due) * 1e6), 0) if self._due < math.inf else 0
        self._due = now + pause_s
        if now >= self._window_ends:
            self._window_ends = now + LATE_WINDOW_S
            self._worst_before_us, self._worst_us = self._worst_us, 0
        self._worst_us = max(self._worst_us, late_us)
        process = self._process
        process[Process.LATE_WORST_US] = max(self._worst_us, self._worst_before_us)
        process[Process.LATE_SUM_US] += late_us
        process[Process.BEATS] += 1


class Step:
    """What one worker writes on its column of the board, and what it reads there."""

    def __init__(self, board: Board, number: int, services: list[Served]) -> None:
        self._board = board
        self._number = number
        self._services = services
        self._seats = [
            _Seat(group, endpoint, group.idle(endpoint))
            for service in services
            for group in service.groups
            for endpoint in group.endpoints
        ]
        self._siblings = _siblings(services)
        self._states = [board.state(index) for index in range(len(self._seats))]
        for seat, state in zip(self._seats, self._states, strict=True):
            seat.pardons, seat.ends = state[State.PARDONS], state[State.ENDS]
        self._process = board.process(number)
        self._lateness = Lateness(self._process)
        for index, route in enumerate(route for service in services for route in service.routes):
            route.count_in(board.traffic(number, index))
        self._leases = board.leases(number)
        self._claims = board.claims(number)
        self._wants = board.wants(number)
        self._limited = [seat for seat in self._seats if seat.endpoint.max_connections]
        self._looks_elsewhere = any(seat.group.balancer.tracks_load for seat in self._seats)
        self._refresh_picks()
        self._version = 0

    def beat(self, now: float, pause_s: float) -> None:
        """Measure the loop: this is a beat that came by time, and the next one is due PAUSE_S from NOW."""
        self._lateness.beat(now, pause_s)

    def take(self, now: float) -> None:
        """Tell and follow; NOW is on CLOCK_MONOTONIC, in seconds.

        What is published before it has told, it has followed before anything else happens.
        """
        self.tell()
        self._follow_news()
        self._claim()
        self._follow_ejections(now)
        if self._looks_elsewhere:
            self._follow_load()
        for seat in self._seats:
            if seat.endpoint.own > seat.endpoint.tunnels:
                self._listen(seat, now)
            else:
                seat.since = now

    def tell(self) -> None:
        """Write what there is now; the heartbeat last, so that who has seen it knows all of it."""
        for service in self._services:
            rest = service.routes[-1].cells
            rest[Traffic.CONNECTED] = len(service.open)
            rest[Traffic.WAITING] = sum(len(group.waiting) for group in service.groups)
        for seat in self._seats:
            endpoint = seat.endpoint
            now = (endpoint.own, endpoint.tunnels, len(seat.idle), endpoint.total, endpoint.reused)
            if now != seat.told:
                cells, told = endpoint.cells, seat.told
                cells[Counter.ACTIVE], cells[Counter.TUNNELS], cells[Counter.IDLE] = now[:3]
                cells[Counter.TOTAL] += endpoint.total - told[3]
                cells[Counter.REUSED] += endpoint.reused - told[4]
                seat.told = now
        self._process[Process.HEARTBEAT] += 1

    # --- what the supervisor says ---

    def _follow_news(self) -> None:
        version = self._board.version
        if version != self._version:
            self._version = version
            self._follow_states()

    def _follow_states(self) -> None:
        for seat, state in zip(self._seats, self._states, strict=True):
            group, endpoint = seat.group, seat.endpoint
            endpoint.node.keeps = not state[State.STICKY]
            group.balancer.set_state(endpoint.node.name, ADMIN_STATES[state[State.ADMIN]])
            group.balancer.set_health(endpoint, HEALTHS[state[State.HEALTH]])
            group.balancer.set_weight(endpoint, state[State.WEIGHT])
            if state[State.PARDONS] != seat.pardons:
                seat.pardons = state[State.PARDONS]
                group.ejections.pardon(endpoint)
        for seat, state in zip(self._seats, self._states, strict=True):  # what is moved meets the new states
            if state[State.ENDS] != seat.ends:
                seat.ends = state[State.ENDS]
                seat.group.end(seat.endpoint)
        for group in self._groups():
            group.follow()

    def _groups(self) -> Iterator[Group]:
        for service in self._services:
            yield from service.groups

    def _claim(self) -> None:
        """Obey the leases, and say so: the supervisor hands on only what nobody claims any more."""
        if not self._version:
            return  # nothing has been published: this worker is alone, and the limits are its own
        for seat in self._limited:
            group, endpoint = seat.group, seat.endpoint
            lease = self._leases[endpoint.index]
            if group.balancer.set_limit(endpoint, lease):
                group.wake()
            self._claims[endpoint.index] = max(lease, endpoint.own)
            self._wants[endpoint.index] = endpoint.own + len(group.waiting)

    # --- what other workers say ---

    def _follow_ejections(self, now: float) -> None:
        now_ms = int(now * 1000)
        for seat, until_ms in zip(self._seats, self._board.ejected_until(), strict=True):
            if seat.endpoint.ejected is not (until_ms > now_ms):
                seat.group.ejections.follow(seat.endpoint, ejected=until_ms > now_ms)

    def _follow_load(self) -> None:
        elsewhere = self._board.active_elsewhere(self._number)
        for same in self._siblings:
            everywhere = sum(elsewhere[index] + self._seats[index].endpoint.own for index in same)
            for index in same:
                elsewhere[index] = everywhere - self._seats[index].endpoint.own
        for seat, active in zip(self._seats, elsewhere, strict=True):
            seat.group.balancer.set_elsewhere(seat.endpoint, active)

    def _refresh_picks(self) -> None:
        """Let services whose sessions are few and long see states and loads as of now, not the last beat."""
        start = 0
        for group in self._groups():
            rows = slice(start, start + len(group.endpoints))
            group.refresh = partial(self._refresh, self._seats[rows], rows)
            group.ejections.others_out = partial(self._count_others_out, rows)
            start = rows.stop

    def _refresh(self, seats: list[_Seat], rows: slice) -> None:
        self._follow_news()
        if self._board.workers == 1:
            return
        for seat, active in zip(seats, self._board.active_elsewhere(self._number, rows), strict=True):
            seat.group.balancer.set_elsewhere(seat.endpoint, active)

    def _count_others_out(self, rows: slice, endpoint: Endpoint, now: float) -> int:
        """Return how many of these but ENDPOINT are left out NOW: another worker may have been first."""
        until_ms = self._board.ejected_until()
        until_ms[endpoint.index] = 0
        return sum(one > now * 1000 for one in until_ms[rows])

    # --- silence ---

    def _listen(self, seat: _Seat, now: float) -> None:
        """Have an endpoint probed that owes answers and gives none; leave it if it is known to be down."""
        group, endpoint, cells = seat.group, seat.endpoint, seat.endpoint.cells
        answers = sum(cells[Counter.STATUS_1XX : Counter.STATUS_5XX + 1])
        if answers != seat.answers or seat.since > now:
            seat.answers, seat.since = answers, now
        elif now - seat.since >= group.settings.outliers.silence:
            seat.since = now - group.settings.outliers.silence / 2
            if endpoint.health is Health.DOWN:
                group.move_from(endpoint)
            else:
                group.alert(endpoint.index)


def _siblings(services: list[Served]) -> list[list[int]]:
    """Return the seats of each endpoint that several groups of a service have: its load is that of all."""
    found: list[list[int]] = []
    index = 0
    for service in services:
        places: dict[tuple[str, Address], list[int]] = {}
        for group in service.groups:
            for endpoint in group.endpoints:
                places.setdefault((endpoint.node.name, endpoint.address), []).append(index)
                index += 1
        found += [same for same in places.values() if len(same) > 1]
    return found
