"""What all probes share: the deadline, the time taken, and words for what went wrong."""

from __future__ import annotations

import asyncio
import math
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

from trackproxy.health.reasons import is_local, reason_of
from trackproxy.settings import EndpointConfig
from trackproxy.units import Address


@dataclass(frozen=True, slots=True)
class Result:
    """What one probe has found.

    reason: one phrase for the operator. took_s: from the start to the result.
    local: it was this machine that could not probe; the result says nothing about the endpoint.
    """

    passed: bool
    reason: str
    took_s: float
    local: bool = False


class Prober(Protocol):
    """Looks at one endpoint."""

    async def probe(self) -> Result:
        """Look once; raises nothing but CancelledError."""
        ...


class TimedProber(ABC):
    """One look, within a time. awaited: what is missing when that is over."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self.awaited = ""

    async def probe(self) -> Result:
        started = time.perf_counter()
        passed = local = False
        try:
            async with asyncio.timeout(self._timeout_s):
                found = await self._look()
            passed, reason = True, f"{found} in {math.ceil((time.perf_counter() - started) * 1000)} ms"
        except TimeoutError:
            reason = f"no {self.awaited} within {self._timeout_s:g} s"
        except Exception as error:  # noqa: BLE001 - whatever a node does to the client library is a result
            reason, local = reason_of(error), is_local(error)
        return Result(passed, reason, time.perf_counter() - started, local)

    @abstractmethod
    async def _look(self) -> str:
        """Return what was found; raise if that is bad."""


def probed(port: int | None, endpoint: EndpointConfig) -> Address:
    """Return where an endpoint is probed; PORT: instead of its own."""
    address = endpoint.address
    return address if address.path or port is None else Address(address.host, port)
