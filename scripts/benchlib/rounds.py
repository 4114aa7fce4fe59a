"""The main measurement: peers take turns on one core under the same load, for some rounds.

Turns make the ratios honest: what disturbs the machine for a while disturbs neighbouring turns alike, so
each ratio is the median of the ratios within a round.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

from benchlib.load import Counted, Load, run_load
from benchlib.machine import Cores
from benchlib.nodes import running_nodes, verify
from benchlib.peers import RunningPeer, running_peer
from benchlib.usage import MIB, cpu_time, rss_bytes

REFERENCES = ("haproxy", "nginx")
WARMING_S = 1
Act = Callable[[int], Counted]  # loads a port for a turn; the CPU that is used meanwhile is measured


@dataclass(frozen=True, slots=True)
class Turn:
    """One peer under load for one round; µs are CPU time per request of all its processes.

    core_share: CPU time over wall time; clearly below 1 means that the load, not the proxy, set the rate.
    """

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    user_us: float
    system_us: float
    total_us: float
    core_share: float
    rss_mib: float
    errors: int


@dataclass(frozen=True, slots=True)
class Row:
    """A peer's medians over its turns (errors: the sum), and its CPU per request relative to REFERENCES."""

    name: str
    title: str
    median: Turn
    turns: list[Turn]
    times: dict[str, float]


@dataclass(frozen=True, slots=True)
class Times:
    """seconds: length of each turn."""

    rounds: int
    seconds: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One running peer and its load.

    prepare: called with the seconds of each turn before it, unmeasured; returns what is done in it.
    """

    peer: RunningPeer
    prepare: Callable[[int], Act]


def take_turn(peer: RunningPeer, act: Act) -> Turn:
    """Load one running peer and read what it used meanwhile."""
    before = cpu_time(peer.pid)
    counted = act(peer.port)
    used = cpu_time(peer.pid).since(before)
    us = 1e6 / max(counted.requests, 1)
    return Turn(
        requests_per_s=counted.requests / counted.seconds,
        p50_ms=counted.p50_ms,
        p99_ms=counted.p99_ms,
        user_us=used.user_s * us,
        system_us=used.system_s * us,
        total_us=used.total_s * us,
        core_share=used.total_s / counted.seconds,
        rss_mib=rss_bytes(peer.pid) / MIB,
        errors=counted.errors,
    )


def measure_rounds(
    names: Sequence[str],
    load: Load,
    rounds: int,
    cores: Cores,
    folder: Path,
    references: Sequence[str] = REFERENCES,
) -> list[Row]:
    """Start and check all peers, then `take_turns`."""
    with contextlib.ExitStack() as stack:
        nodes = stack.enter_context(running_nodes(folder, cores.load))
        peers = [stack.enter_context(running_peer(name, nodes, folder, cores.proxy)) for name in names]
        for peer in peers:
            verify(peer.name, peer.port)
        entries = [Entry(peer, by_wrk(load)) for peer in peers]
        return take_turns(f"{load.heads} heads", entries, Times(rounds, load.seconds), references)


def by_wrk(load: Load) -> Callable[[int], Act]:
    """For `Entry.prepare`: the same load in each turn."""
    return lambda seconds: partial(run_load, replace(load, seconds=seconds))


def take_turns(
    what: str, entries: Sequence[Entry], times: Times, references: Sequence[str] = REFERENCES
) -> list[Row]:
    """Warm each peer with a short turn that does not count, then so many rounds of turns."""
    for entry in entries:
        entry.prepare(WARMING_S)(entry.peer.port)
    turns: dict[str, list[Turn]] = {entry.peer.name: [] for entry in entries}
    for number in range(1, times.rounds + 1):
        for entry in entries:
            peer = entry.peer
            print(f"{what}, round {number} of {times.rounds}: {peer.name}", file=sys.stderr)
            turns[peer.name].append(take_turn(peer, entry.prepare(times.seconds)))
    return [_row(entry.peer, turns, references) for entry in entries]


def _row(peer: RunningPeer, turns: Mapping[str, list[Turn]], references: Sequence[str]) -> Row:
    own = turns[peer.name]
    costs = {name: [turn.total_us for turn in taken] for name, taken in turns.items()}
    return Row(peer.name, peer.title, median_turn(own), own, times_of(peer.name, costs, references))


def times_of(name: str, costs: Mapping[str, Sequence[float]], references: Sequence[str]) -> dict[str, float]:
    """How many times each reference's cost this peer's is: the median of the ratios within a round."""
    return {
        reference: median(mine / theirs for mine, theirs in zip(costs[name], costs[reference], strict=True))
        for reference in references
        if reference in costs
    }


def median_turn(turns: Sequence[Turn]) -> Turn:
    """Each figure's own median; errors are added up."""
    columns = [asdict(turn) for turn in turns]
    figures = {key: median(column[key] for column in columns) for key in columns[0]}
    return Turn(**{**figures, "errors": sum(turn.errors for turn in turns)})
