"""One run: the stage is set, the load runs, the fault strikes and ends, and everything is counted."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from tests.chaos.figures import Excuse, Figures, first_after, left_alone, repeated, unexcused
from tests.chaos.load import Kind, Load
from tests.chaos.nodes import Node, Received
from tests.chaos.processes import ChaosError, fixed_ports
from tests.chaos.proxy import Proxy
from tests.chaos.tally import Tally
from tests.chaos.wiretap import Wiretap

NAMES = ("n1", "n2", "n3")
CONNECTIONS = 64
Arrivals = dict[str, list[Received]]
FEWEST_REQUESTS = 500  # a run with fewer proves nothing
BACK_S = 10.0  # a node that is well again gets requests again


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything. calm_s: around a fault. hang_s: of a fault that takes time to notice."""

    workers: int = 2
    calm_s: float = 1.5
    fault_s: float = 4.0
    hang_s: float = 6.0
    reloads: int = 20
    upgrades: int = 5
    connections: int = CONNECTIONS


SHORT = Scale(calm_s=0.7, fault_s=1.5, hang_s=4.0, reloads=5, upgrades=2)


@dataclass(slots=True)
class Run:
    """What a fault acts upon, and what it notes down.

    begun_at, ended_at: of the fault. newest: the last request that had been made at its end. used: the
    nodes that get requests after it. excuses: failures that it makes unavoidable. problems: sentences.
    check: returns more of these once the load is over.
    attempts: to use the sick node, if they can be seen.
    """

    scale: Scale
    nodes: dict[str, Node]
    proxy: Proxy
    load: Load
    kind: Kind = "kept"
    begun_at: float = 0.0
    ended_at: float = 0.0
    newest: int = 0
    excuses: list[Excuse] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    used: tuple[str, ...] = NAMES
    attempts: list[float] | None = None
    check: Callable[[Tally], list[str]] = lambda tally: []

    def begins(self) -> None:
        """The fault is in force."""
        self.begun_at = time.monotonic()

    def ends(self) -> None:
        """The fault is about to end, or has."""
        self.newest = max(node.newest for node in self.nodes.values())
        self.ended_at = time.monotonic()

    def hold(self, seconds: float) -> None:
        """Let the load run on; the proxy must not end meanwhile."""
        if self.proxy.wait(seconds):
            raise ChaosError(
                f"the proxy ended with {self.proxy.ended_with}; its log:\n{self.proxy.log.tail()}"
            )

    def until(self, fact: Callable[[], bool], deadline_s: float) -> bool:
        """Let the load run on until a fact holds; whether it does."""
        deadline = time.monotonic() + deadline_s
        while not fact():
            if time.monotonic() > deadline:
                return False
            self.hold(0.02)
        return True


@dataclass(frozen=True, slots=True)
class Fault:
    """A row. strike: does the fault, from its beginning to its end, and marks both in the run.

    sick: the node that it strikes, if it is one; only then may a POST fail. kind: of connections; where
    processes are to start, "busy" ones would take all of a small machine. ends_proxy: the proxy is gone
    afterwards. workers: it needs processes that serve.
    """

    name: str
    strike: Callable[[Run], None]
    sick: str = ""
    kind: Kind = "kept"
    ends_proxy: bool = False
    workers: bool = False


def perform(fault: Fault, scale: Scale, folder: Path) -> tuple[Figures, str]:
    """Run a fault once in an empty folder; the figures, and the end of the proxy's log."""
    with ExitStack() as stack:
        run = _set_up(fault, scale, folder, stack)
        run.load.ready()
        run.hold(scale.calm_s)
        tap = Wiretap(run.nodes[fault.sick].port) if fault.sick else None
        try:
            fault.strike(run)
        finally:
            run.attempts = tap.stop() if tap else None
        if not fault.ends_proxy:
            _calm_down(run)
        tally = run.load.stop()
        run.problems += run.check(tally)
        return _figures(fault, run, tally), run.proxy.log.tail()


def _set_up(fault: Fault, scale: Scale, folder: Path, stack: ExitStack) -> Run:
    port, *ports = fixed_ports(1 + len(NAMES))
    nodes = {}
    for name, node_port in zip(NAMES, ports, strict=True):
        nodes[name] = Node(name, node_port, folder)
        stack.callback(nodes[name].close)
    for node in nodes.values():
        node.ready()
    addresses = {name: node.port for name, node in nodes.items()}
    proxy = Proxy(folder, port, addresses, scale.workers)
    stack.callback(proxy.close)
    proxy.ready()
    load = Load(port, scale.connections, fault.kind)
    stack.callback(load.close)
    return Run(scale, nodes, proxy, load, fault.kind)


def _calm_down(run: Run) -> None:
    """Let the load run on until every node that is in use gets requests again."""
    run.hold(run.scale.calm_s)

    def idle() -> list[str]:
        return [name for name in run.used if run.nodes[name].newest <= run.newest]

    if not run.until(lambda: not idle(), BACK_S):
        run.problems.append(f"{', '.join(idle())} got no request within {BACK_S:g} s after the fault")


def _figures(fault: Fault, run: Run, tally: Tally) -> Figures:
    received = {name: list(node.received()) for name, node in run.nodes.items()}
    duplicated, moved = repeated(chain.from_iterable(received.values()))
    return Figures(
        fault=fault.name,
        requests=tally.requests,
        failed=tally.failed,
        posts_failed=tally.posts_failed,
        duplicated=duplicated,
        moved=moved,
        detect_s=_detected(fault, run, received),
        back_s=first_after(received[fault.sick], run.ended_at, run.newest) if fault.sick else None,
        gap_s=tally.gap_s,
        longest_s=tally.longest_s,
        problems=[*run.problems, *_problems(fault, run, tally, received), *_twice(duplicated)],
        failures=tally.failures[:20],
    )


def _detected(fault: Fault, run: Run, received: Arrivals) -> float | None:
    if run.attempts is None:
        return None
    others = sorted(one.at for name, arrivals in received.items() if name != fault.sick for one in arrivals)
    return left_alone(run.attempts, others, run.begun_at, run.ended_at)


def _problems(fault: Fault, run: Run, tally: Tally, received: Arrivals) -> list[str]:
    problems = unexcused(tally, run.excuses, posts_may_fail=bool(fault.sick))
    if tally.requests < FEWEST_REQUESTS:
        problems.append(f"only {tally.requests} requests: the load hardly ran")
    for name in set(received) - set(run.used):
        if first_after(received[name], run.ended_at, run.newest) is not None:
            problems.append(f"{name} got requests although it is not configured any more")
    return problems


def _twice(duplicated: int) -> list[str]:
    return [f"{duplicated} POSTs reached nodes more than once"] if duplicated else []
