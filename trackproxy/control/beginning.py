"""A start with nothing to take over: sockets of the service manager, what was kept, the first workers."""

from __future__ import annotations

import logging

from trackproxy.control.activation import activated_sockets
from trackproxy.control.listeners import Listeners, by_place
from trackproxy.control.reloads import Loaded
from trackproxy.control.upgrades import Estate
from trackproxy.pool.nodes import AdminState
from trackproxy.settings import Settings
from trackproxy.telling import tell

log = logging.getLogger(__name__)


async def begin(estate: Estate, loaded: Loaded, settings: Settings) -> None:
    """Open the listeners of SETTINGS and serve; raises ListenError or StartFailed."""
    generations, wanted = estate.generations, estate.changes.states()
    generations.listeners = Listeners(by_place(activated_sockets()))
    given = {*generations.listeners.rows}
    moving = [node for node, one in wanted.items() if one.sticky == "move"]
    estate.cluster.begin_with({node: one.state for node, one in wanted.items()}, moving)
    await loaded.serve(settings)
    _resume(estate)
    for place in given - {*generations.listeners.rows}:
        log.warning("the service manager's socket %s fits no listener of the settings", place)


def _resume(estate: Estate) -> None:
    """Go on with what operators wanted of nodes when the program before ended."""
    for node, wanted in estate.changes.states().items():
        if node not in estate.cluster.states:
            continue
        text, state = "node %s: %s, as before this start", wanted.state.value
        tell(log, logging.INFO, "node_state", text, node, state, node=node, state=state, was=state)
        if wanted.state is AdminState.DRAIN:
            estate.drains.begin(node, wanted.left_s, wanted.sticky, resumed=True)
        else:
            estate.cluster.set_state(node, wanted.state)
