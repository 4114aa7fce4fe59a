"""Until when certificates are good, as their files say.

Workers have certificates to serve them, and the supervisor has none. So their files are looked at again, in a
thread and seldom: LOOK_S after the last time somebody wanted to know. Files that have not changed since are
not read.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trackproxy.http_sections import HttpService
from trackproxy.session_sections import SessionService
from trackproxy.settings import AnyService

if TYPE_CHECKING:
    from trackproxy.certificates.sources import Files, Source

LOOK_S = 30.0
FIRST_S = 1.0  # that the first who asks waits at most
TOLD = 50  # certificates of a service

Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class End:
    """A certificate. name: the first one it is for. at_s: the end, in seconds since 1970."""

    name: str
    at_s: float


@dataclass(frozen=True, slots=True)
class Served:
    """Those of a service. count: of all. soonest: the first ends of each name, TOLD at most."""

    count: int
    soonest: list[End]


class Ends:
    """What was found by the last look at certificates of all services."""

    def __init__(self) -> None:
        self._known: dict[Files, tuple[Stamp, End]] = {}
        self._found: dict[str, Served] = {}
        self._looking: asyncio.Task[None] | None = None
        self._due = 0.0

    async def of(self, services: dict[str, AnyService]) -> dict[str, Served]:
        """Return what is known, by service; a look that is due begins, and the first one is waited for."""
        sources = {name: source for name, one in services.items() if (source := _source(one)) is not None}
        if not sources:
            self._found = {}
        elif self._looking is None and time.monotonic() >= self._due:
            first = not self._due
            self._due = time.monotonic() + LOOK_S
            self._looking = asyncio.create_task(self._look(sources), name="ends of certificates")
            if first:
                await asyncio.wait({self._looking}, timeout=FIRST_S)
        return {name: served for name, served in self._found.items() if name in services}

    async def _look(self, sources: dict[str, Source]) -> None:
        try:
            self._known, self._found = await asyncio.to_thread(_look, sources, self._known)
        finally:
            self._looking = None


def _source(service: AnyService) -> Source | None:
    """Return where a service has its certificates from, None if it has none."""
    if isinstance(service, HttpService):
        return service.tls.source() if service.tls.listen else None
    if isinstance(service, SessionService) and service.tls == "terminate":
        from trackproxy.certificates.sources import FileSource  # few services need them

        return FileSource([(service.certificate, service.private_key)], "")
    return None


def _look(
    sources: dict[str, Source], before: dict[Files, tuple[Stamp, End]]
) -> tuple[dict[Files, tuple[Stamp, End]], dict[str, Served]]:
    known: dict[Files, tuple[Stamp, End]] = {}
    found: dict[str, Served] = {}
    for name, source in sources.items():
        ends = []
        for files, stamp, end in _ends(source, before):
            known[files] = stamp, end
            ends.append(end)
        found[name] = Served(len(ends), _soonest(ends))
    return known, found


def _ends(source: Source, before: dict[Files, tuple[Stamp, End]]) -> Iterator[tuple[Files, Stamp, End]]:
    from trackproxy.tls import CertificateError

    with suppress(CertificateError):  # of the scan: what cannot be looked into has none
        for files in source.scan():
            known = before.get(files)
            with suppress(CertificateError, OSError):  # it is served as it was, if it was; the log says why
                known = _read_if_changed(files, known)
            if known is not None:
                yield files, *known


def _read_if_changed(files: Files, known: tuple[Stamp, End] | None) -> tuple[Stamp, End]:
    from trackproxy.certificates.reading import read

    state = os.stat(files.certificate)
    stamp = (state.st_ino, state.st_size, state.st_mtime_ns)
    if known is not None and known[0] == stamp:
        return known
    certificate = read(files)
    path = os.fsencode(files.certificate).decode("utf-8", "replace")  # a text, whatever it is on disk
    return stamp, End(next(iter(certificate.names), path), certificate.expires_s)


def _soonest(ends: Iterable[End]) -> list[End]:
    """Return one end for each name: a name may have several certificates, of several kinds of keys."""
    first: dict[str, End] = {}
    for end in sorted(ends, key=lambda end: end.at_s):
        if len(first) < TOLD:
            first.setdefault(end.name, end)
    return list(first.values())
