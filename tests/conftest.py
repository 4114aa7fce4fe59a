"""What every test stands on: the event loop of production, and no exception that nobody saw.

An exception in a protocol callback is only logged by a loop. Here it fails the test that caused it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import uvloop
from hypothesis import settings

# Machines are shared: how long an example takes says nothing.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")

# Tests run side by side, and beside a trackproxy that somebody uses: who wants the admin endpoint says where.
os.environ["TRACKPROXY_ADMIN__LISTEN"] = ""

_unhandled: list[str] = []


def _record(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    _unhandled.append(f"{context.get('message')}: {context.get('exception')!r}")


def _new_loop() -> asyncio.AbstractEventLoop:
    loop = uvloop.new_event_loop()
    loop.set_exception_handler(_record)
    return loop


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run asynchronous tests as production runs: on uvloop."""
    return {"uvloop": _new_loop}


@pytest.fixture(autouse=True)
def no_unhandled_exception() -> Iterator[None]:
    """Fail the test in which a callback or a forgotten task raised."""
    _unhandled.clear()
    yield
    assert _unhandled == []
