"""The rows: what is done to whom. A new fault is a function of the run and a line in FAULTS."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from itertools import cycle, islice

from tests.chaos.figures import Excuse
from tests.chaos.operators import operate
from tests.chaos.proxy import REFUSED, RELOADED, UPGRADED
from tests.chaos.runs import NAMES, Fault, Run
from trackproxy.commands.client import Client

SICK = "n2"
FLAP_S = 0.3
REPLACED_S = 10.0  # a new worker serves instead of a dead one
LOST_S = 1.0  # a connection of a killed process is found lost within this time
DRAINED_S = 15.0  # the grace of the proxy, and some time to end
INSIDE_S = 1.0  # workers inside the supervisor cannot be seen; every client asks once more within this time
NODE_LISTS = (("n1", "n2"), ("n2", "n3"), ("n1", "n3"), NAMES)


# --- nodes ---


def kill_node(run: Run) -> None:
    """Kill -9, and a restart later."""
    node = run.nodes[SICK]
    run.begins()
    node.obey("kill")
    run.hold(run.scale.fault_s)
    run.ends()
    node.obey("up")


def stop_node(run: Run) -> None:
    """SIGSTOP: the kernel still takes connections and bytes, the node does nothing; then SIGCONT."""
    node = run.nodes[SICK]
    run.begins()
    node.obey("stop")
    run.hold(run.scale.hang_s)
    run.ends()
    node.obey("cont")


def sicken(word: str) -> Callable[[Run], None]:
    """The node answers as WORD says for a while, probes too."""

    def strike(run: Run) -> None:
        node = run.nodes[SICK]
        run.begins()
        node.obey(word)
        run.hold(run.scale.fault_s)
        run.ends()
        node.obey("well")

    return strike


def hang_node(word: str) -> Callable[[Run], None]:
    """The node answers nothing any more, until it is killed and started again."""

    def strike(run: Run) -> None:
        node = run.nodes[SICK]
        run.begins()
        node.obey(word)
        run.hold(run.scale.hang_s)
        run.ends()
        node.obey("kill")
        node.obey("up")

    return strike


def flap_node(run: Run) -> None:
    """The node dies and comes back, over and over."""
    node = run.nodes[SICK]
    run.begins()
    for _ in range(int(run.scale.fault_s / FLAP_S / 2) + 1):
        node.obey("kill")
        run.hold(FLAP_S)
        node.obey("up")
        run.hold(FLAP_S)
    run.ends()


def toggle(out: Callable[[Client], object], back: Callable[[Client], object]) -> Callable[[Run], None]:
    """An operator takes the node out, and back in later."""

    def strike(run: Run) -> None:
        client = run.proxy.client
        run.begins()
        out(client)
        run.hold(run.scale.fault_s)
        run.ends()
        back(client)

    return strike


disable_node = toggle(lambda client: client.disable(SICK), lambda client: client.ready(SICK))
weigh_node = toggle(
    lambda client: client.change(SICK, {"weight": 0}), lambda client: client.change(SICK, {"weight": None})
)


# --- processes of the proxy ---


def kill_worker(run: Run) -> None:
    """Kill -9 of one worker: only what it had on its way is lost, and another one replaces it."""
    before = run.proxy.serving()
    if not before:
        run.problems.append("there is no worker to kill")
        return
    victim = max(before, key=run.proxy.connections_of)
    may_lose = run.scale.connections if run.kind == "fresh" else run.proxy.connections_of(victim)
    run.begins()
    os.kill(victim, signal.SIGKILL)
    run.excuses.append(Excuse(may_lose, run.begun_at, run.begun_at + LOST_S))
    if not run.until(lambda: len(run.proxy.serving() - {victim}) == len(before), REPLACED_S):
        run.problems.append(f"the killed worker {victim} was not replaced within {REPLACED_S:g} s")
    run.hold(run.scale.fault_s)
    run.ends()


def reload(run: Run) -> None:
    """Reload after reload, each with another list of nodes; the next as soon as one is done."""
    before = run.proxy.serving()
    run.begins()
    for names in islice(cycle(NODE_LISTS), run.scale.reloads):
        run.proxy.write_nodes(names)
        _signal(run, signal.SIGHUP, RELOADED)
        run.used = names
    _others_serve(run, before)
    run.ends()


def reload_nonsense(run: Run) -> None:
    """A reload with a file that is wrong: it is refused, and nothing changes."""
    before = run.proxy.serving()
    run.proxy.write_nonsense()
    run.begins()
    _signal(run, signal.SIGHUP, REFUSED)
    run.hold(run.scale.fault_s)
    run.ends()
    if run.proxy.serving() != before:
        run.problems.append(f"the workers {before} served before, and now {run.proxy.serving()} do")


def upgrade(run: Run) -> None:
    """In-place upgrades, one after the other; the supervisor keeps its pid."""
    before = run.proxy.serving()
    run.begins()
    for _ in range(run.scale.upgrades):
        _signal(run, signal.SIGUSR2, UPGRADED)
    _others_serve(run, before)
    run.ends()


def terminate(run: Run) -> None:
    """SIGTERM: every request that was sent is answered, then the proxy ends by itself."""
    run.load.leave()
    run.begins()
    run.proxy.signal(signal.SIGTERM)
    if not run.proxy.wait(DRAINED_S):
        run.problems.append(f"it has not ended within {DRAINED_S:g} s")
    elif run.proxy.ended_with:
        run.problems.append(f"it ended with {run.proxy.ended_with}")
    run.ends()


def _signal(run: Run, number: signal.Signals, pattern: str) -> None:
    """Send the supervisor a signal, and wait until it says what it has done."""
    place = run.proxy.log.size
    run.proxy.signal(number)
    run.proxy.expect(pattern, place)
    run.hold(0)


def _others_serve(run: Run, before: set[int]) -> None:
    """Wait until the workers from before are gone, and as many others serve."""

    if not before:
        run.hold(INSIDE_S)
        return

    def replaced() -> bool:
        return not before & run.proxy.workers() and len(run.proxy.serving()) == len(before)

    if not run.until(replaced, DRAINED_S):
        now, serving = run.proxy.workers(), run.proxy.serving()
        run.problems.append(f"the workers {before} served before; now there are {now}, and {serving} serve")


FAULTS = {
    fault.name: fault
    for fault in (
        Fault("node-killed", kill_node, SICK, "busy"),
        Fault("node-stopped", stop_node, SICK, "busy"),
        Fault("node-resets", sicken("reset"), SICK, "busy"),
        Fault("node-cuts", sicken("cut"), SICK, "busy"),
        Fault("node-silent", hang_node("silent"), SICK, "busy"),
        Fault("node-deaf", hang_node("deaf"), SICK, "busy"),
        Fault("node-503", sicken("503"), SICK, "busy"),
        Fault("node-500", sicken("500"), SICK, "busy"),
        Fault("node-flaps", flap_node, SICK, "busy"),
        Fault("node-disabled", disable_node, SICK, "busy"),
        Fault("node-weightless", weigh_node, SICK, "busy"),
        Fault("worker-killed", kill_worker, "", "busy", workers=True),
        Fault("worker-killed-fresh", kill_worker, "", "fresh", workers=True),
        Fault("reloads", reload),
        Fault("reloads-fresh", reload, "", "fresh"),
        Fault("reload-nonsense", reload_nonsense, "", "busy"),
        Fault("upgrades", upgrade),
        Fault("upgrades-fresh", upgrade, "", "fresh"),
        Fault("operators", operate, "", "busy", workers=True),
        Fault("sigterm", terminate, "", "busy", ends_proxy=True),
        Fault("sigterm-fresh", terminate, "", "fresh", ends_proxy=True),
    )
}
