"""What the supervisor does again and again, for as long as it lives."""

from __future__ import annotations

import asyncio

from trackproxy.control.activation import Notifier
from trackproxy.control.cluster import Cluster
from trackproxy.control.generations import Generations
from trackproxy.control.recent import LOOK_S, Looks
from trackproxy.control.sharing import Sharing
from trackproxy.step import BEAT_S

WATCH_S = 1.0  # between two looks at workers, at most


async def beat(cluster: Cluster) -> None:
    """Share limits and counts out between workers that cannot see each other."""
    sharing = Sharing()
    while True:
        if sharing.is_needed(cluster.views):
            await asyncio.sleep(BEAT_S)
            sharing.take(cluster.views, asyncio.get_running_loop().time())
        else:
            cluster.adopted.clear()
            await cluster.adopted.wait()


async def watch(cluster: Cluster, generations: Generations, notifier: Notifier) -> None:
    """Let weights grow, look after workers, and tell the service manager that we live."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(cluster.pause_s(min(notifier.watchdog_s or WATCH_S, WATCH_S)))
        notifier.alive()
        cluster.pass_time()
        generations.look(loop.time())


async def look(looks: Looks) -> None:
    """Look at totals for as long as somebody wants to know; to be begun when `Looks.ask` says so."""
    loop = asyncio.get_running_loop()
    while True:
        if not looks.take(loop.time()):
            return
        await asyncio.sleep(LOOK_S)
