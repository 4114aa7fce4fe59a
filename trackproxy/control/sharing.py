"""What workers that cannot see each other have in common: loads across generations, and limits.

Each limit is shared out in leases (see `pool.leases`). Who wants room where it has none gets its turn.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

from trackproxy.board import Board, State
from trackproxy.control.views import Key, View
from trackproxy.pool.leases import first_shares, share

TURN_S = 0.2  # how long a worker may want room in vain before another one has to give it up


class Cell(NamedTuple):
    """One worker's place for one endpoint."""

    board: Board
    worker: int
    row: int


def lease_first(view: View, held: Collection[Key]) -> None:
    """Write the first leases: even parts, or none of what workers of another generation HELD before."""
    workers = view.board.workers
    places: dict[Key, list[int]] = {}
    for index, row in enumerate(view.rows):
        if row.config.max_connections:
            places.setdefault(row.watched.key.shared, []).append(index)
    shared = {key.shared for key in held}
    for key, indices in places.items():
        cells = [(index, worker) for index in indices for worker in range(workers)]
        limit = view.rows[indices[0]].config.max_connections
        parts = [0] * len(cells) if key in shared else first_shares(limit, len(cells))
        for (index, worker), part in zip(cells, parts, strict=True):
            view.board.leases(worker)[index] = part or -1


class Sharing:
    """Carries loads and leases between the boards of VIEWS, the newest of which says what the limits are."""

    def __init__(self) -> None:
        self._in_vain: dict[Cell, float] = {}

    def is_needed(self, views: list[View]) -> bool:
        """Whether `take` has anything to do."""
        return len(views) > 1 or any(row.config.max_connections for view in views for row in view.rows)

    def take(self, views: list[View], now: float) -> None:
        """Tell each generation what the others have open, and share limits out; to be called at each beat."""
        if len(views) > 1:
            _tell_loads(views, _places(views, lambda key: key))
        in_vain, self._in_vain = self._in_vain, {}
        for where in _places(views, lambda key: key.shared).values():
            view, index = where[-1]
            limit = view.rows[index].config.max_connections if view is views[-1] else 0
            if limit:
                cells = [cell for view, index in where for cell in _cells(view, index)]
                self._share(limit - _unlimited(where), cells, in_vain, now)

    def _share(self, limit: int, cells: list[Cell], in_vain: dict[Cell, float], now: float) -> None:
        leases = [max(board.leases(worker)[index], 0) for board, worker, index in cells]
        claims = [max(board.claims(worker)[index], 0) for board, worker, index in cells]
        wants = [board.wants(worker)[index] for board, worker, index in cells]
        prefer = list(leases)
        for at, cell in enumerate(cells):
            if wants[at] and not leases[at]:
                since = self._in_vain[cell] = in_vain.get(cell, now)
                prefer[at] = limit + 1 if now - since > TURN_S else 0
        new = share(limit, leases, claims, wants, prefer)
        for (board, worker, index), lease in zip(cells, new, strict=True):
            board.leases(worker)[index] = lease or -1


def _places(views: list[View], of: Callable[[Key], Key]) -> dict[Key, list[tuple[View, int]]]:
    """Return where each endpoint has its rows, those that are the same OF their keys together."""
    places: dict[Key, list[tuple[View, int]]] = {}
    for view in views:
        for index, row in enumerate(view.rows):
            places.setdefault(of(row.watched.key), []).append((view, index))
    return places


def _cells(view: View, row: int) -> list[Cell]:
    """Return the places of workers that take part in a limit: they run, and were started knowing of one."""
    if not view.rows[row].config.max_connections:
        return []
    return [Cell(view.board, worker, row) for worker in range(view.board.workers) if worker not in view.gone]


def _unlimited(where: list[tuple[View, int]]) -> int:
    """Return what workers have open that were started when there was no limit."""
    return sum(view.board.active()[row] for view, row in where if not view.rows[row].config.max_connections)


def _tell_loads(views: list[View], places: dict[Key, list[tuple[View, int]]]) -> None:
    """Tell the workers of each generation what those of the others have open."""
    active = {id(view): view.board.active() for view in views}
    for where in places.values():
        everywhere = sum(active[id(view)][index] for view, index in where)
        for view, index in where:
            view.board.state(index)[State.ELSEWHERE] = everywhere - active[id(view)][index]
