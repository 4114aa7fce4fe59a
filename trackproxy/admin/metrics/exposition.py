"""The answer to GET /metrics: in the text format of Prometheus or in OpenMetrics, as is asked for.

What is in memory is read in the event loop, some milliseconds for 250 endpoints; the rest, most of the work,
is done in a thread. Only one scrape is answered at a time, and once for all who wait for it, see `turns`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from trackproxy.admin.metrics.ends import Ends
from trackproxy.admin.metrics.filling import fill
from trackproxy.admin.metrics.processes import usage_of
from trackproxy.admin.metrics.seen import Measured, Seen, see
from trackproxy.admin.metrics.sheet import Sheet, Writer
from trackproxy.admin.overview import own_version
from trackproxy.admin.turns import Turns

# The ways to write names that leave ours as they are; others are for the library to write.
PLAIN = ("escaping=underscores", "escaping=allow-utf-8")


class Metrics:
    """All metrics of one supervisor."""

    def __init__(self, measured: Measured) -> None:
        self._measured = measured
        self._ends = Ends()
        self._writer = Writer()
        self._version = own_version()
        self._turns = Turns(self._answer)

    async def answer(self, accept: str) -> tuple[bytes, str]:
        """Return the text, and its type, for whoever ACCEPTs these types."""
        encoding = _encoder(accept)[1]
        return await self._turns.next(encoding), encoding

    async def _answer(self, encoding: str) -> bytes:
        serving = self._measured.generations.running[-1:]
        services = dict(serving[0].settings.services) if serving else {}
        certificates = await self._ends.of(services)
        seen = see(self._measured, certificates)
        return await asyncio.to_thread(self._write, seen, encoding)

    def _write(self, seen: Seen, encoding: str) -> bytes:
        return written(self._sheet(seen), encoding, self._writer)[0]

    def _sheet(self, seen: Seen) -> Sheet:
        usages = {labels: usage for labels, pid in seen.pids.items() if (usage := usage_of(pid)) is not None}
        return fill(seen, usages, self._version)


def written(sheet: Sheet, accept: str, writer: Writer) -> tuple[bytes, str]:
    """Return SHEET as text, and the type of that, for whoever ACCEPTs these types."""
    encode, content_type = _encoder(accept)
    if "escaping=" in content_type and not content_type.endswith(PLAIN):
        return encode(registry_of(sheet)), content_type
    openmetrics = content_type.startswith("application/openmetrics-text")
    return writer.text(sheet, openmetrics=openmetrics), content_type


def _encoder(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    """Ask the library; what it cannot read, and what cannot be said again, is asked for by nobody we know."""
    try:
        chosen = choose_encoder(accept)
    except TypeError:  # a version that is no number
        return choose_encoder("")
    return chosen if chosen[1].isascii() and chosen[1].isprintable() else choose_encoder("")


def registry_of(sheet: Sheet) -> CollectorRegistry:
    """Return a registry of the client library with SHEET alone."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(sheet))
    return registry


class _Collected(Collector):
    def __init__(self, sheet: Sheet) -> None:
        self._sheet = sheet

    def collect(self) -> Iterator[Family]:
        return self._sheet.collect()
