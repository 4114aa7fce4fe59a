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
    clients    CLIENTS               the worker; see `pool.admission`
    learned    LEARNED               the worker; see `pool.learned`
    rates      RATES                 the worker; see `pool.rates`

Tables lie kind by kind (all endpoints' ACTIVE, then all endpoints' TUNNELS, …), because every worker reads
some kinds for all endpoints many times a second. The row of one endpoint is therefore a slice with a stride.

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
    EJECTIONS = 4
    TOTAL = 5
    RETRIES = 6
    CONNECTS = 7
    CONNECT_FAILURES = 8
    LOST = 9
    SILENT = 10
    MALFORMED = 11
    STATUS_1XX = 12  # final answers by class; 1xx is a switch of protocol
    STATUS_2XX = 13
    STATUS_3XX = 14
    STATUS_4XX = 15
    STATUS_5XX = 16
    CONNECT_SUM_US = 17  # sums of what the histograms count
    WHOLE_SUM_US = 18
    FIRST_BYTE_SUM_US = 19
    DURATION_SUM_US = 20
    BYTES_UP = 21  # passed on by sessions, to the node
    BYTES_DOWN = 22  # and from it
    STICKY_NEW = 23  # clients that were given to it
    STICKY_KEPT = 24  # requests that followed their stickiness
    MOVED_DRAIN = 25  # clients that belonged to it and were served elsewhere, by cause: it is draining,
    MOVED_DISABLED = 26  # it is disabled,
    MOVED_DOWN = 27  # it is down or ejected,
    MOVED_FULL = 28  # it has no room,
    MOVED_FAILED = 29  # an attempt there has failed
    CONNECT_TIME = 30
    WHOLE = CONNECT_TIME + HISTOGRAM
    FIRST_BYTE = WHOLE + HISTOGRAM
    DURATION = FIRST_BYTE + HISTOGRAM


ROW = Counter.DURATION + HISTOGRAM  # cells in the row of one worker and endpoint
GAUGES = frozenset({Counter.ACTIVE, Counter.TUNNELS, Counter.IDLE, Counter.EJECTED_UNTIL})


class Process(IntEnum):
    """What one worker says of itself."""

    HEARTBEAT = 0  # counts upwards while its loop turns
    CONNECTIONS = 1  # clients connected
    WAITING = 2  # requests in queues
    ACCEPTED = 3  # totals from here: connections taken,
    REFUSED = 4  # requests that we answered with 4xx,
    UNAVAILABLE = 5  # and with 5xx,
    STICKY_FORGED = 6  # cookies of stickiness that were not ours,
    STICKY_EXPIRED = 7  # too old,
    STICKY_UNKNOWN = 8  # or of a node that is no longer configured,
    LIMITED = 9  # requests and connections refused for their client's limits or the service's


PROCESS_GAUGES = frozenset({Process.CONNECTIONS, Process.WAITING})


class _Header(IntEnum):
    MAGIC = 0
    LAYOUT = auto()
    ENDPOINTS = auto()
    WORKERS = auto()
    VERSION = auto()
    SECRET = auto()  # and the cells that follow, SECRET_CELLS in all


SECRET_CELLS = 4  # what workers have in common and nobody else: TLS sessions are resumed by it

_HEAD_CELLS = _Header.SECRET + SECRET_CELLS
_MAGIC = int.from_bytes(b"TPBOARD\0", "big")
# A package that is upgraded under a running supervisor may have other cells, so the number follows from them.
# Its first item is for what they do not show, such as the order of areas.
_CELLS = [(kind.__name__, [(cell.name, cell.value) for cell in kind]) for kind in (State, Counter, Process)]
_LAYOUT = zlib.crc32(repr((3, LINE, CLIENTS, LEARNED, RATES, BUCKETS_S, _CELLS)).encode())
_OWN = 7  # areas of each worker


def _places(endpoints: int, workers: int) -> tuple[list[slice], int]:
    """Return where each area lies, in the order of the layout, and the cells of the whole."""
    shared = [_HEAD_CELLS, len(State) * endpoints, *[endpoints] * workers]
    own = [len(Process), endpoints, endpoints, ROW * endpoints, CLIENTS, LEARNED, RATES]
    places, start = [], 0
    for cells in shared + own * workers:
        places.append(slice(start, start + cells))
        start += -(-cells // LINE) * LINE
    return places, start


class Board:
    """One mapping of a board. What it hands out are slices to keep and to write into; each has one writer."""

    def __init__(self, fd: int, endpoints: int, workers: int, *, owned: bool) -> None:
        """Map FD, which fits; use `create` or `open`. owned: whether `close` closes it."""
        self.fd, self.endpoints, self.workers, self._owned = fd, endpoints, workers, owned
        places, cells = _places(endpoints, workers)
        # Nobody holds the mapping but slices of it: it goes with the last of them.
        with memoryview(mmap.mmap(fd, cells * CELL_BYTES)) as raw, raw.cast("q") as memory:
            self._areas = [memory[place] for place in places]
        self._header, self._states = self._areas[:2]
        own = self._areas[2 + workers :]
        self._leases = self._areas[2 : 2 + workers]
        self._processes, self._claims, self._wants, self._counters = (own[n::_OWN] for n in range(4))
        self._clients, self._learned, self._rates = (own[n::_OWN] for n in range(4, _OWN))

    @classmethod
    def create(cls, endpoints: int, workers: int, secret: bytes = b"") -> Board:
        """Make a board of zeros, or raise BoardError; pass its `fd` on to the workers.

        SECRET: of another board, to be this one's too; a new one is made without.

        Its memory is taken page by page as cells are written. Its size is sealed: access to what is mapped
        and no longer in the file would kill.
        """
        assert endpoints >= 0
        assert workers >= 1
        size_bytes = _places(endpoints, workers)[1] * CELL_BYTES
        head = struct.pack("=5q", _MAGIC, _LAYOUT, endpoints, workers, 0)
        head += secret or os.urandom(SECRET_CELLS * CELL_BYTES)
        fd = -1
        try:
            fd = os.memfd_create("trackproxy-board", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(fd, size_bytes)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            os.pwrite(fd, head, 0)
            return cls(fd, endpoints, workers, owned=True)
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
            magic, layout, endpoints, workers, _ = struct.unpack_from("=5q", head)
            if magic != _MAGIC or endpoints < 0 or workers < 1:
                raise BoardError("not a board")
            if layout != _LAYOUT:
                raise BoardError("a board of another version of trackproxy")
            # First a bound, so that no header makes us count through more areas than the file can hold.
            if workers * LINE > size_bytes or _places(endpoints, workers)[1] * CELL_BYTES != size_bytes:
                raise BoardError("a board of the wrong size")
            return cls(fd, endpoints, workers, owned=owned)
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
        kinds = [self._kind(area, Counter.ACTIVE).tolist() for area in self._counters]
        return list(map(sum, zip(*kinds, strict=True)))

    def ejected_until(self) -> list[int]:
        """When each endpoint's ejection ends, in milliseconds of CLOCK_MONOTONIC; 0 if never ejected."""
        kinds = [self._kind(area, Counter.EJECTED_UNTIL).tolist() for area in self._counters]
        return list(map(max, zip(*kinds, strict=True)))

    def totals(self, endpoint: int) -> list[int]:
        """The row of an endpoint added up over all workers; of EJECTED_UNTIL the sum means nothing."""
        rows = [self._column(area, endpoint).tolist() for area in self._counters]
        return list(map(sum, zip(*rows, strict=True)))

    def retire(self, worker: int) -> None:
        """Supervisor: clear what means nothing without the process; its totals and its heartbeat stay.

        Call it when that process has been waited for, and before another one starts in its place: in between
        the supervisor is the one writer of these cells. Leases are the supervisor's all along, and stay.
        So do `learned`, which is true without the worker that wrote it, and `rates`, which only time ends.
        """
        process = self.process(worker)
        for cell in PROCESS_GAUGES:
            process[cell] = 0
        kinds = [self._kind(self._counters[worker], gauge) for gauge in GAUGES]
        for cells in (self._claims[worker], self._wants[worker], *kinds):
            for endpoint in range(self.endpoints):
                cells[endpoint] = 0  # one store each; a slice assignment promises none
        clients = self._clients[worker]
        for place, held in enumerate(clients.tolist()):
            if held:
                clients[place] = 0

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


def _of(areas: list[memoryview], worker: int) -> memoryview:
    """Return the area of a worker."""
    if not 0 <= worker < len(areas):
        raise IndexError(f"no worker {worker} on the board")
    return areas[worker]


def no_row() -> memoryview:
    """Return a row like those of `counters` for an endpoint that is on no board."""
    return memoryview(bytearray(ROW * CELL_BYTES)).cast("q")
