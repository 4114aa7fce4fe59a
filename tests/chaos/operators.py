"""Operators, scrapers and killers at once: everybody who changes or watches a proxy does so, under load.

What they are told must be true: no question fails, no counter runs backwards, and once all is quiet the
counts are those of the clients, nothing is in flight any more, and the supervisor has not grown.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import cycle

from prometheus_client.parser import text_string_to_metric_families

from tests.chaos.figures import Excuse
from tests.chaos.runs import NAMES, Run
from tests.chaos.tally import Tally
from trackproxy.commands.client import Client, Refused
from trackproxy.commands.connection import Place, exchange
from trackproxy.errors import TrackproxyError

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]

LOOK_S = 0.1
ACT_S = 0.3  # between two changes of one operator, at most
RELOAD_EACH_S = 2.0
KILL_EACH_S = 5.0
LOST_S = 1.0  # a connection of a killed process is found lost within this time
ASK_S = 10.0
QUIET_S = 15.0  # the grace of the proxy, and some time to end
GROWTH_BYTES = 4 << 20
WARM = 0.3  # of the time; a supervisor may grow until then
ALLOWED = {404, 412}  # a node that a reload has dropped; somebody was faster
READINGS = ("/api/v1/nodes", "/api/v1/services", "/api/v1/status", "/api/v1/events", "/readyz")
QUIET = ("open_connections", "queue_length", "endpoint_active", "endpoint_tunnels")


def operate(run: Run) -> None:
    """Drains, weights, disables, reloads and kills while the fault lasts, looked at all the while."""
    watch = Watch(run.proxy.client.place)
    others = [Operator(run.proxy.client, name) for name in ("n2", "n2", "n3", "n3")]
    run.begins()
    with _running(watch, *others):
        lists = cycle((NAMES, ("n1", "n2"), NAMES, ("n1", "n3")))
        reload_at, kill_at = (
            run.begun_at + RELOAD_EACH_S,
            run.begun_at + min(KILL_EACH_S, run.scale.fault_s / 2),
        )
        while (now := time.monotonic()) < run.begun_at + run.scale.fault_s:
            if now >= reload_at:
                reload_at = now + RELOAD_EACH_S
                run.proxy.write_nodes(next(lists))
                run.proxy.signal(signal.SIGHUP)
            if now >= kill_at:
                kill_at = now + KILL_EACH_S
                _kill_one(run)
            run.hold(0.05)
    run.problems += watch.problems + [problem for one in others for problem in one.problems]
    run.proxy.write_nodes(NAMES)
    try:
        _settle(run.proxy.client, run)
    except TrackproxyError as error:
        run.problems.append(f"an order at the end was not carried out: {error}")
    run.ends()
    run.check = lambda tally: _check(run, watch, tally)


def _kill_one(run: Run) -> None:
    victims = run.proxy.serving()
    if not victims:
        return
    victim = random.choice([*victims])
    with suppress(ProcessLookupError):
        os.kill(victim, signal.SIGSTOP)  # so that it takes no more connections than are counted
        open_, now = run.proxy.connections_of(victim), time.monotonic()
        os.kill(victim, signal.SIGKILL)
        run.excuses.append(Excuse(open_, now, now + LOST_S))


def _settle(client: Client, run: Run) -> None:
    """All nodes take part again; this waits for the reloads before."""
    client.reload()
    for name in NAMES:
        client.ready(name)
        client.change(name, {"weight": None})
    run.hold(0.2)


class Operator(threading.Thread):
    """Somebody who changes one node, again and again. problems: what was answered wrongly."""

    def __init__(self, client: Client, node: str) -> None:
        super().__init__(daemon=True)
        self.over = threading.Event()
        self.problems: list[str] = []
        self.done = 0
        self._acts: list[Callable[[], object]] = [
            lambda: client.drain(node, random.choice(("2s", "5s")), random.choice(("keep", "move"))),
            lambda: client.disable(node),
            lambda: client.ready(node),
            lambda: client.ready(node),
            lambda: client.change(node, {"weight": random.choice((1, 2, 7, None))}),
            lambda: client.change(node, {"weight": random.choice((1, 3, None))}, "web"),
            lambda: client.change(node, {"weight": 4}, "", client.node(node)["version"]),
        ]

    def run(self) -> None:
        while not self.over.wait(random.uniform(0, ACT_S)):
            try:
                random.choice(self._acts)()
                self.done += 1
            except Refused as error:
                if error.status not in ALLOWED and "unknown node" not in str(error):
                    self.problems.append(f"an order was answered with {error.status}: {error}")
            except TrackproxyError as error:
                self.problems.append(f"an order was not answered: {error}")


class Watch(threading.Thread):
    """Somebody who looks at everything, ten times a second. problems: what was wrong with it.

    memory: of the supervisor, in bytes, by look.
    """

    def __init__(self, place: Place) -> None:
        super().__init__(daemon=True)
        self.over = threading.Event()
        self.problems: list[str] = []
        self.memory: list[float] = []
        self.longest_s = 0.0
        self._place = place
        self._before: Samples = {}

    def run(self) -> None:
        while not self.over.wait(LOOK_S):
            begun_at = time.monotonic()
            try:
                for path in READINGS:
                    json.loads(read(self._place, path))
                self._scraped(scrape(self._place))
            except (TrackproxyError, ValueError) as error:
                self.problems.append(f"a question was not answered: {error}")
            self.longest_s = max(self.longest_s, time.monotonic() - begun_at)

    def _scraped(self, found: Samples) -> None:
        now = {what: number for what, number in found.items() if _only_grows(*what)}
        back = {what: (was, now[what]) for what, was in self._before.items() if now.get(what, was) < was}
        if back:
            self.problems.append(f"counters have run backwards: {dict([*back.items()][:3])}")
        below = [what for what, number in found.items() if number < 0]
        if below:
            self.problems.append(f"less than nothing: {below[:3]}")
        self._before = now
        self.memory.append(added(found, "process_resident_memory_bytes", process="supervisor"))


def _only_grows(name: str, labels: tuple[tuple[str, str], ...]) -> bool:
    return name.endswith(("_total", "_count", "_sum", "_bucket")) and "worker" not in dict(labels)


class _running:
    """Threads that run inside this block."""

    def __init__(self, *threads: Watch | Operator) -> None:
        self._threads = threads

    def __enter__(self) -> None:
        for one in self._threads:
            one.start()

    def __exit__(self, *_: object) -> None:
        for one in self._threads:
            one.over.set()
        for one in self._threads:
            one.join()


def read(place: Place, path: str) -> bytes:
    """What is answered; raises TrackproxyError if that is no 200."""
    with exchange(place, "GET", path, ASK_S, None, {}) as response:
        body = response.read()
    if response.status != 200:
        raise TrackproxyError(f"{path} is answered with {response.status}: {body[:200]!r}")
    return body


def scrape(place: Place) -> Samples:
    """All metrics."""
    families = text_string_to_metric_families(read(place, "/metrics").decode())
    return {
        (one.name, tuple(sorted(one.labels.items()))): one.value
        for family in families
        for one in family.samples
    }


def added(found: Samples, name: str, **labels: str) -> float:
    """The sum over all that has these labels."""
    return sum(
        number
        for (one, own), number in found.items()
        if one == f"trackproxy_{name}" and labels.items() <= dict(own).items()
    )


def _check(run: Run, watch: Watch, tally: Tally) -> list[str]:
    """What is wrong with what the proxy says of itself, once the load is over."""
    place = run.proxy.client.place
    lost = sum(one["how"] == "lost" for one in tally.failures)
    answered = sum(tally.nodes.values())
    found: Samples = {}

    def quiet() -> bool:
        nonlocal found
        found = scrape(place)
        return not any(added(found, name) for name in QUIET) and added(found, "workers") == run.scale.workers

    problems = []
    if not run.until(quiet, QUIET_S):
        stuck = {name: added(found, name) for name in (*QUIET, "workers")}
        problems.append(f"all is over, and still there is {stuck}")
    counted = added(found, "requests_total", **{"class": "2xx"})
    if not answered <= counted <= answered + lost:
        problems.append(f"{answered} were answered and {lost} lost, and {counted:g} are counted")
    warm = watch.memory[int(len(watch.memory) * WARM)] if watch.memory else 0.0
    if watch.memory and watch.memory[-1] - warm > GROWTH_BYTES:
        problems.append(f"the supervisor has grown from {warm:g} to {watch.memory[-1]:g} bytes")
    return problems
