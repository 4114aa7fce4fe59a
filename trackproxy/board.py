"""The board: memory that the supervisor shares with one generation of workers.

Its layout, in cells (64-bit signed integers) of one mapped file; each area begins on cache lines of its own:

    area       cells                 written by
    header     _Header               the supervisor
    states     State x endpoints     the supervisor
    leases     endpoints             the supervisor; one such area for each worker
    process    Process               the worker; this and what follows once for each worker, in turn
    claims     endpoints             the worker
    wants      endpoints             the worker
    counters   Counter x endpoints   the worker
    traffic    TRAFFIC_ROW x routes  the worker
    clients    CLIENTS               the worker; see `pool.admission`
    learned    LEARNED               the worker; see `pool.learned`
    rates      RATES                 the worker; see `pool.rates`

Tables of endpoints lie kind by kind (all endpoints' ACTIVE, then all endpoints' TUNNELS, …), because every
worker reads some kinds for all endpoints many times a second. The row of one endpoint is therefore a slice
with a stride. What is counted of routes lies row by row: nobody reads it but the supervisor, now and then.

Promise: one writer per cell, so no locks; and nothing is ever misread, although a worker may be killed at any
moment. The trick: a cell is aligned, CPython copies an item of format "q" as one word, and a kill falls
between two machine instructions, so a store has happened or it has not. No two cells have to agree: a killed
worker leaves at most its last request counted in some totals and not in others, and gauges that `retire`
clears. (Where two say one thing together, as in `learned`, readers look twice.) Its replacement adds to the
totals it finds, so that sums never run backwards.

Order: x86-64 shows stores in the order they were made. A machine that does not may show a new version some
nanoseconds before the states it stands for; they are read with the next version then.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import zlib
from enum import IntEnum, auto
from functools import reduce
from itertools import product
from operator import add

from trackproxy.errors import TrackproxyError

CELL_BYTES = 8
LINE = 16  # cells between the beginnings of areas are a multiple of this: cache lines are fetched in pairs

# fmt: off
# Upper bounds in seconds, two per octave; the index in a histogram is `bisect_left(BUCKETS_S, seconds)`.
BUCKETS_S: tuple[float, ...] = (
    0.00025, 0.00035, 0.0005, 0.0007, 0.001, 0.0014, 0.002, 0.0028, 0.004, 0.0055, 0.008, 0.011, 0.016,
    0.022, 0.032, 0.045, 0.0625, 0.09, 0.125, 0.18, 0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6,
    8.0, 11.0, 16.0, 22.0, 32.0, 45.0, 64.0,
)
# fmt: on
HISTOGRAM = len(BUCKETS_S) + 1  # cells of a histogram; the last one is for everything above
CLIENTS = 24576  # cells of a worker's table of clients; what they mean is in `pool.admission`
LEARNED = 32768  # cells of a worker's table of sessions; what they mean is in `pool.learned`
RATES = 24576  # cells of a worker's table of how fast clients come; see `pool.rates`
ALL = slice(None)


class BoardError(TrackproxyError):
    """A board could not be made, or what was to be opened is not one of this version of trackproxy."""


class State(IntEnum):
    """What the supervisor says of an endpoint."""

    ADMIN = 0  # 0 ready, 1 drain, 2 disabled
    HEALTH = 1  # 0 up, 1 down, 2 starting
    WEIGHT = 2  # effective now (slow start), relative to the other endpoints of the service
    PARDONS = 3  # how many times a good probe has ended an ejection; moves only upwards
    ENDS = 4  # how many times what is left here was ordered to end; moves only upwards
    ELSEWHERE = 5  # requests open at workers that are not on this board (an older generation)
    STICKY = 6  # clients that belong to a draining node: 0 they stay, 1 they move


class Counter(IntEnum):
    """What one worker says of one endpoint: four gauges, totals, and the first cells of four histograms.

    Most answers come in one piece, so that their first byte is their end: they are counted once, under WHOLE.
    First bytes of all answers are WHOLE and FIRST_BYTE added up, their ends WHOLE and DURATION.
    """

    ACTIVE = 0  # open requests, tunnels too
    TUNNELS = 1
    IDLE = 2  # idle connections
    EJECTED_UNTIL = 3  # milliseconds of CLOCK_MONOTONIC; 0 if never ejected
    EJECTED_CONNECT = 4  # ejections by cause, in the order of `health.outliers.Cause`
    EJECTED_LOST = 5
    EJECTED_SILENT = 6
    EJECTED_MALFORMED = 7
    EJECTED_STATUS = 8
    TOTAL = 9
    REUSED = 10  # of these, requests over connections that had served before
    RETRIES = 11
    CONNECTS = 12
    CONNECT_FAILURES = 13
    LOST = 14
    SILENT = 15
    MALFORMED = 16
    STATUS_1XX = 17  # final answers by class; 1xx is a switch of protocol
    STATUS_2XX = 18
    STATUS_3XX = 19
    STATUS_4XX = 20
    STATUS_5XX = 21
    CONNECT_SUM_US = 22  # sums of what the histograms count
    WHOLE_SUM_US = 23
    FIRST_BYTE_SUM_US = 24
    DURATION_SUM_US = 25
    BYTES_UP = 26  # passed on by sessions, to the node
    BYTES_DOWN = 27  # and from it
    STICKY_NEW = 28  # clients that were given to it
    STICKY_KEPT = 29  # requests that followed their stickiness
    MOVED_DRAIN = 30  # clients that belonged to it and were served elsewhere, by cause: it is draining,
    MOVED_DISABLED = 31  # it is disabled,
    MOVED_DOWN = 32  # it is down or ejected,
    MOVED_FULL = 33  # it has no room,
    MOVED_FAILED = 34  # an attempt there has failed
    CONNECT_TIME = 35
    WHOLE = CONNECT_TIME + HISTOGRAM
    FIRST_BYTE = WHOLE + HISTOGRAM
    DURATION = FIRST_BYTE + HISTOGRAM


ROW = Counter.DURATION + HISTOGRAM  # cells in the row of one worker and endpoint
GAUGES = frozenset({Counter.ACTIVE, Counter.TUNNELS, Counter.IDLE, Counter.EJECTED_UNTIL})


METHODS = (b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"other")
FAMILIES = 5  # classes of status: 1xx to 5xx


class Traffic(IntEnum):
    """What one worker says of one route of a service: two gauges, then totals.

    The last route of a service, the one for the rest, has what belongs to no route: its gauges, connections,
    and requests that were refused before their route was known. A service of sessions has that one only.
    """

    CONNECTED = 0  # clients
    WAITING = 1  # requests or sessions that wait for room
    ACCEPTED = 2  # connections ever
    STICKY_FORGED = 3  # cookies of stickiness that were not ours,
    STICKY_EXPIRED = 4  # too old,
    STICKY_UNKNOWN = 5  # or of a node that is no longer configured
    REDISPATCHED = 6  # second tries at another endpoint than those before
    BUDGET_EXHAUSTED = 7  # second tries that the rules allowed and the budget did not
    RETRIED_CONNECT = 8  # second tries by what went wrong before
    RETRIED_LOST = 9
    RETRIED_SILENT = 10
    RETRIED_STALLED = 11
    RETRIED_MALFORMED = 12
    RETRIED_STATUS = 13
    RETRIED_DOWN = 14
    RETRIED_ENDED = 15
    REFUSED_MALFORMED = 16  # clients that got no answer of a node, by cause: what they sent cannot be read,
    REFUSED_METHOD = 17  # a method that is not served,
    REFUSED_TOO_LARGE = 18  # target, head or body,
    REFUSED_TIMEOUT = 19  # the request did not come in time,
    REFUSED_FORBIDDEN = 20  # the network of the client,
    REFUSED_RATE = 21  # too many requests,
    REFUSED_CONNECTIONS = 22  # too many connections,
    REFUSED_PROXY_HEADER = 23  # what a trusted proxy has to say first is missing or wrong,
    REFUSED_HANDSHAKE = 24  # no TLS could be agreed on,
    REFUSED_NO_NODE = 25  # no endpoint may be used,
    REFUSED_QUEUE_FULL = 26  # all are full, and so is the queue,
    REFUSED_QUEUE_TIMEOUT = 27  # all were full for too long,
    REFUSED_FAILED = 28  # all tries have failed
    ANSWERS = 29  # what clients got: METHODS x FAMILIES


TRAFFIC_ROW = Traffic.ANSWERS + len(METHODS) * FAMILIES  # cells in the row of one worker and route
TRAFFIC_GAUGES = frozenset({Traffic.CONNECTED, Traffic.WAITING})


class Process(IntEnum):
    """What one worker says of itself."""

    HEARTBEAT = 0  # counts upwards while its loop turns, and once more when it has ended
    LATE_WORST_US = 1  # how late its beat was at worst in the last seconds; see `step.Lateness`
    BEATS = 2  # that came by time,
    LATE_SUM_US = 3  # and how late they were, all together


PROCESS_GAUGES = frozenset({Process.LATE_WORST_US})


class _Header(IntEnum):
    MAGIC = 0
    LAYOUT = auto()
    ENDPOINTS = auto()
    ROUTES = auto()
    WORKERS = auto()
    VERSION = auto()
    SECRET = auto()  # and the cells that follow, SECRET_CELLS in all


SECRET_CELLS = 4  # what workers have in common and nobody else: TLS sessions are resumed by it

_HEAD_CELLS = _Header.SECRET + SECRET_CELLS
_MAGIC = int.from_bytes(b"TPBOARD\0", "big")
# A package that is upgraded under a running supervisor may have other cells, so the number follows from them.
# The first of _SIZES is for what they do not show, such as the order of areas.
_CELLS = [
    (kind.__name__, [(cell.name, cell.value) for cell in kind]) for kind in (State, Counter, Traffic, Process)
]
_SIZES = (4, LINE, CLIENTS, LEARNED, RATES, BUCKETS_S, METHODS, FAMILIES)
_LAYOUT = zlib.crc32(repr((_SIZES, _CELLS)).encode())
_OWN = 8  # areas of each worker


def _places(endpoints: int, routes: int, workers: int) -> tuple[list[slice], int]:
    """Return where each area lies, in the order of the layout, and the cells of the whole."""
    shared = [_HEAD_CELLS, len(State) * endpoints, *[endpoints] * workers]
    own = [len(Process), endpoints, endpoints, ROW * endpoints, TRAFFIC_ROW * routes]
    own += [CLIENTS, LEARNED, RATES]
    places, start = [], 0
    for cells in shared + own * workers:
        places.append(slice(start, start + cells))
        start += -(-cells // LINE) * LINE
    return places, start


class Board:
    """One mapping of a board. What it hands out are slices to keep and to write into; each has one writer."""

    def __init__(self, fd: int, endpoints: int, routes: int, workers: int, *, owned: bool) -> None:
        """Map FD, which fits; use `create` or `open`. owned: whether `close` closes it."""
        self.fd, self._owned = fd, owned
        self.endpoints, self.routes, self.workers = endpoints, routes, workers
        places, cells = _places(endpoints, routes, workers)
        # Nobody holds the mapping but slices of it: it goes with the last of them.
        with memoryview(mmap.mmap(fd, cells * CELL_BYTES)) as raw, raw.cast("q") as memory:
            self._areas = [memory[place] for place in places]
        self._header, self._states = self._areas[:2]
        own = self._areas[2 + workers :]
        self._leases = self._areas[2 : 2 + workers]
        self._processes, self._claims, self._wants, self._counters = (own[n::_OWN] for n in range(4))
        self._traffic, self._clients, self._learned, self._rates = (own[n::_OWN] for n in range(4, _OWN))

    @classmethod
    def create(cls, endpoints: int, workers: int, routes: int = 1, secret: bytes = b"") -> Board:
        """Make a board of zeros, or raise BoardError; pass its `fd` on to the workers.

        ROUTES: of all services, see `settings.routes_of`.
        SECRET: of another board, to be this one's too; a new one is made without.

        Its memory is taken page by page as cells are written. Its size is sealed: access to what is mapped
        and no longer in the file would kill.
        """
        assert min(endpoints, routes) >= 0
        assert workers >= 1
        size_bytes = _places(endpoints, routes, workers)[1] * CELL_BYTES
        head = struct.pack("=6q", _MAGIC, _LAYOUT, endpoints, routes, workers, 0)
        head += secret or os.urandom(SECRET_CELLS * CELL_BYTES)
        fd = -1
        try:
            fd = os.memfd_create("trackproxy-board", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(fd, size_bytes)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            os.pwrite(fd, head, 0)
            return cls(fd, endpoints, routes, workers, owned=True)
        except OSError as error:
            if fd >= 0:
                os.close(fd)
            raise BoardError(f"no shared memory for the board: {error}") from error

    @classmethod
    def open(cls, fd: int, *, owned: bool = False) -> Board:
        """Map the board behind FD; raise BoardError if it does not fit. owned: whether `close` closes FD."""
        length = _HEAD_CELLS * CELL_BYTES
        try:
            head, size_bytes = os.pread(fd, length, 0), os.fstat(fd).st_size
            if len(head) < length:
                raise BoardError("not a board: too short")
            magic, layout, endpoints, routes, workers, _ = struct.unpack_from("=6q", head)
            if magic != _MAGIC or min(endpoints, routes) < 0 or workers < 1:
                raise BoardError("not a board")
            if layout != _LAYOUT:
                raise BoardError("a board of another version of trackproxy")
            # First a bound, so that no header makes us count through more areas than the file can hold.
            if workers * LINE > size_bytes:
                raise BoardError("a board of the wrong size")
            if _places(endpoints, routes, workers)[1] * CELL_BYTES != size_bytes:
                raise BoardError("a board of the wrong size")
            return cls(fd, endpoints, routes, workers, owned=owned)
        except OSError as error:
            raise BoardError(f"not a board: {error}") from error

    @property
    def version(self) -> int:
        """Moves when the supervisor has published; states are worth reading again then."""
        return self._header[_Header.VERSION]

    @property
    def secret(self) -> bytes:
        """32 random octets that all workers of one supervisor share."""
        return bytes(self._header[_Header.SECRET :].cast("B"))

    def publish(self) -> None:
        """Supervisor: have the workers read the states that were written before."""
        self._header[_Header.VERSION] += 1

    def state(self, endpoint: int) -> memoryview:
        """What the supervisor says of an endpoint, by State."""
        return self._column(self._states, endpoint)

    def leases(self, worker: int) -> memoryview:
        """How many requests the supervisor lets the worker have open, per endpoint: -1 none, 0 no limit."""
        return _of(self._leases, worker)[:]

    def claims(self, worker: int) -> memoryview:
        """The leases that the worker has last obeyed, per endpoint."""
        return _of(self._claims, worker)[:]

    def wants(self, worker: int) -> memoryview:
        """How many requests the worker could have open, per endpoint."""
        return _of(self._wants, worker)[:]

    def counters(self, worker: int, endpoint: int) -> memoryview:
        """What the worker says of an endpoint, by Counter; in histograms, Counter plus index of bucket."""
        return self._column(_of(self._counters, worker), endpoint)

    def traffic(self, worker: int, route: int) -> memoryview:
        """What the worker says of a route, by Traffic."""
        if not 0 <= route < self.routes:
            raise IndexError(f"no route {route} on the board")
        return _of(self._traffic, worker)[route * TRAFFIC_ROW : (route + 1) * TRAFFIC_ROW]

    def process(self, worker: int) -> memoryview:
        """What the worker says of itself, by Process."""
        return _of(self._processes, worker)[:]

    def clients(self, worker: int) -> memoryview:
        """Whose sessions the worker has open; see `pool.admission`."""
        return _of(self._clients, worker)[:]

    def learned(self, worker: int) -> memoryview:
        """Which node has which session, as the worker has learned it; see `pool.learned`."""
        return _of(self._learned, worker)[:]

    def rates(self, worker: int) -> memoryview:
        """How fast clients have come to the worker; see `pool.rates`."""
        return _of(self._rates, worker)[:]

    def active_elsewhere(self, worker: int, rows: slice = ALL) -> list[int]:
        """Requests open at each endpoint at all workers but this one, those of older generations included.

        rows: of these endpoints only.
        """
        kinds = [self._kind(self._states, State.ELSEWHERE)[rows].tolist()]
        kinds += [
            self._kind(area, Counter.ACTIVE)[rows].tolist()
            for n, area in enumerate(self._counters)
            if n != worker
        ]
        return list(map(sum, zip(*kinds, strict=True)))

    def active(self) -> list[int]:
        """Requests open at each endpoint at the workers of this board."""
        return self.of_kind(Counter.ACTIVE)

    def of_kind(self, kind: Counter) -> list[int]:
        """One cell of each endpoint, added up over all workers."""
        return reduce(_added, [self._kind(area, kind).tolist() for area in self._counters])

    def ejected_until(self) -> list[int]:
        """When each endpoint's ejection ends, in milliseconds of CLOCK_MONOTONIC; 0 if never ejected."""
        kinds = [self._kind(area, Counter.EJECTED_UNTIL).tolist() for area in self._counters]
        return list(map(max, zip(*kinds, strict=True)))

    def totals(self, endpoint: int) -> list[int]:
        """The row of an endpoint added up over all workers; of EJECTED_UNTIL the sum means nothing."""
        rows = [self._column(area, endpoint).tolist() for area in self._counters]
        return list(map(sum, zip(*rows, strict=True)))

    def all_totals(self) -> list[list[int]]:
        """The `totals` of every endpoint, at a tenth of the price: what lies together is read together."""
        sums = reduce(_added, [area.tolist() for area in self._counters])
        return [sums[endpoint :: self.endpoints] for endpoint in range(self.endpoints)]

    def route_totals(self, route: int) -> list[int]:
        """The row of a route added up over all workers."""
        rows = [self.traffic(worker, route).tolist() for worker in range(self.workers)]
        return list(map(sum, zip(*rows, strict=True)))

    def of_worker(self, worker: int, cell: Traffic) -> int:
        """What one worker says under CELL of all routes together."""
        return sum(_of(self._traffic, worker)[cell::TRAFFIC_ROW])

    def retire(self, worker: int) -> None:
        """Supervisor: clear what means nothing without the process; its totals stay.

        Its heart beats once more: nobody needs to wait any more for what it has to tell.

        Call it when that process has been waited for, and before another one starts in its place: in between
        the supervisor is the one writer of these cells. Leases are the supervisor's all along, and stay.
        So do `learned`, which is true without the worker that wrote it, and `rates`, which only time ends.
        TOTAL is told once a beat, answers as they come: a worker has had at least as many as it has answered.
        """
        process = self.process(worker)
        for own in PROCESS_GAUGES:
            process[own] = 0
        for route, cell in product(range(self.routes), TRAFFIC_GAUGES):
            self.traffic(worker, route)[cell] = 0
        kinds = [self._kind(self._counters[worker], gauge) for gauge in GAUGES]
        for cells in (self._claims[worker], self._wants[worker], *kinds):
            for endpoint in range(self.endpoints):
                cells[endpoint] = 0  # one store each; a slice assignment promises none
        for endpoint in range(self.endpoints):
            row = self.counters(worker, endpoint)
            row[Counter.TOTAL] = max(
                row[Counter.TOTAL], sum(row[Counter.STATUS_1XX : Counter.STATUS_5XX + 1])
            )
        clients = self._clients[worker]
        for place, held in enumerate(clients.tolist()):
            if held:
                clients[place] = 0
        process[Process.HEARTBEAT] += 1

    def close(self) -> None:
        """Let go of the memory, and of the descriptor if `create` made it. May be called again.

        Slices that were handed out remain good: the memory is unmapped when the last of them is gone.
        """
        for area in self._areas:
            area.release()
        if self._owned:
            self._owned = False
            os.close(self.fd)

    def _column(self, table: memoryview, endpoint: int) -> memoryview:
        """The cells of all kinds for one endpoint."""
        if not 0 <= endpoint < self.endpoints:
            raise IndexError(f"no endpoint {endpoint} on the board")
        return table[endpoint :: self.endpoints]

    def _kind(self, table: memoryview, kind: int) -> memoryview:
        """The cells of one kind for all endpoints."""
        return table[kind * self.endpoints : (kind + 1) * self.endpoints]


def _added(cells: list[int], others: list[int]) -> list[int]:
    return list(map(add, cells, others))


def _of(areas: list[memoryview], worker: int) -> memoryview:
    """Return the area of a worker."""
    if not 0 <= worker < len(areas):
        raise IndexError(f"no worker {worker} on the board")
    return areas[worker]


def no_row(cells: int = ROW) -> memoryview:
    """Return a row for what is on no board: like those of `counters`, or so many CELLS."""
    return memoryview(bytearray(cells * CELL_BYTES)).cast("q")


class Answers(dict[bytes, memoryview]):
    """Where answers to each method are counted in a row of `traffic`: five cells, at the indices 1 to 5.

    It is asked once for each answer; what no method of METHODS is falls under the last one.
    """

    def __init__(self, row: memoryview) -> None:
        starts = range(Traffic.ANSWERS - 1, TRAFFIC_ROW - 1, FAMILIES)
        super().__init__(
            {name: row[at : at + 1 + FAMILIES] for name, at in zip(METHODS, starts, strict=True)}
        )
        self._other = self[METHODS[-1]]

    def __missing__(self, method: bytes) -> memoryview:
        return self._other
