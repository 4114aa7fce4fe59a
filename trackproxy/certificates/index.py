"""The certificates of one process, by name.

A `Source` says which files there are. `Certificates` reads them into an index of names, and makes a context
from what it read when a client asks for the name. It keeps what it read (PEM, 4 to 6 KiB each), so that a
file which is broken later changes nothing: the certificate is served as it was, even if its context has been
dropped meanwhile to bound the memory.

Changes are noticed in two places, both without a thread: at a handshake, the files of that certificate are
looked at if that was not done for a second; and `look` goes over all of them in slices, and over the sources.
Running connections hold the context they began with.
"""

from __future__ import annotations

import math
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from trackproxy.certificates.reading import Certificate, load, read, state_of, verify
from trackproxy.certificates.sources import Files, Source
from trackproxy.tls import CertificateError, Rules, blank_context

LIVE = 1000  # contexts kept at once: 25 KiB each with chain and key
CHECK_S = 1.0  # at a handshake, files are looked at once in this time
LOOK_S = 0.003  # one `look` takes little more; what is left over comes in the next
SLICES = 10  # calls of `look` that go over all certificates, if they are many
SLICE = 200  # certificates that are gone over in each call, if they are few


class Complaint(str):
    """A line for the log that says what is wrong, not what has changed."""

    __slots__ = ()


@dataclass(slots=True, eq=False)
class _Record:
    """What is known of files: how they were when last read, and what came of it."""

    files: Files
    state: Hashable = None
    check_at: float = 0.0
    certificate: Certificate | None = None
    complaint: str = ""


class Certificates:
    """The certificates of one process, by name; the constructor reads them all.

    behind: `look` had too much to do and should be called again soon, such as in 20 ms.
    """

    def __init__(
        self, sources: Sequence[Source], *, live: int = LIVE, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Take the SOURCES, the first one first; LIVE contexts at most are kept at once."""
        self._sources = sources
        self._live = live
        self._clock = clock
        self._records: dict[Files, _Record] = {}
        self._by_name: dict[str, tuple[Certificate, ...]] = {}
        self._contexts: OrderedDict[tuple[tuple[Certificate, ...], Rules], ssl.SSLContext] = OrderedDict()
        self._lines: list[str] = []
        self._scan: Iterator[Files] | None = None
        self._scanned: dict[Files, None] = {}
        self._stamps: list[Hashable] = []
        self._missing: set[Files] = set()
        self._scan_complaint = ""
        self._looks_to_scan = 0  # a scan is due then, whatever the stamps
        self._next = 0  # where the next slice begins
        self._rescan(math.inf, self._read_first)
        self._lines.append(f"{len(self)} certificates for {len(self._by_name)} names are loaded")

    def __len__(self) -> int:
        return sum(record.certificate is not None for record in self._records.values())

    @property
    def behind(self) -> bool:
        return self._scan is not None

    def find(self, name: str | None, rules: Rules = Rules()) -> ssl.SSLContext:  # noqa: B008 - it is frozen
        """Return the context for the NAME a client asks for (A-labels), or the default's.

        It is asked for in each handshake: do not keep it. If several certificates have a name, one of each
        kind of key is in it: the one that expires last. Raises CertificateError if there are none at all.
        """
        while chosen := self._chosen(name):
            try:
                return self._context(_best(chosen), rules)
            except _Unusable as error:
                record = self._records[error.certificate.files]
                self._replace(record, None)
                self._complain(record, str(error))
        raise CertificateError("there is no certificate that can be used")

    def look(self) -> list[str]:
        """Notice what has changed and return lines for the log; call it about once a second."""
        until = self._clock() + LOOK_S
        self._rescan(until, self._refresh)
        self._go_over(until)
        lines, self._lines = self._lines, []
        return lines

    # --- by name ---

    def _chosen(self, name: str | None) -> tuple[Certificate, ...]:
        chosen = self._covering(name)
        if any([self._refresh(self._records[certificate.files]) for certificate in chosen]):
            return self._covering(name)
        return chosen

    def _covering(self, name: str | None) -> tuple[Certificate, ...]:
        """Return all that are for the name, or else the default."""
        if name:
            name = name.lower()
            # RFC 6125, 6.4.3: the wildcard is the whole of the first label, and only of that
            found = self._by_name.get(name) or self._by_name.get(f"*.{name.partition('.')[2]}")
            if found:
                return found
        for record in self._records.values():
            if record.certificate is not None:
                names = record.certificate.names
                return self._by_name[names[0]] if names else (record.certificate,)
        return ()

    def _context(self, chosen: tuple[Certificate, ...], rules: Rules) -> ssl.SSLContext:
        """Return their context, new or as made before; raises _Unusable."""
        context = self._contexts.get((chosen, rules))
        if context is not None:
            self._contexts.move_to_end((chosen, rules))
            return context
        context = blank_context(rules)
        for certificate in chosen:
            try:
                load(context, certificate)
            except CertificateError as error:
                raise _Unusable(certificate, str(error)) from error
        self._contexts[chosen, rules] = context
        if len(self._contexts) > self._live:
            self._contexts.popitem(last=False)
        return context

    # --- changes ---

    def _refresh(self, record: _Record) -> bool:
        """Read files that have changed; return whether the index has changed."""
        now = self._clock()
        if now < record.check_at:
            return False
        record.check_at = now + CHECK_S
        state = state_of(record.files)
        if state is not None and state == record.state:
            return False
        record.state = state
        return self._read_again(record)

    def _read_again(self, record: _Record) -> bool:
        old = record.certificate
        try:
            new = read(record.files)
            if old is None or new.pem != old.pem:
                verify(new)
        except CertificateError as error:
            self._complain(record, str(error))
            return False
        record.complaint = ""
        if old is not None and new.pem == old.pem:
            return False
        self._replace(record, new)
        self._lines.append(f"{'loaded' if old is None else 'loaded again'}: {new}")
        return True

    def _read_first(self, record: _Record) -> None:
        """Read it at the start; that its key belongs to it is seen when it is used."""
        record.state = state_of(record.files)
        try:
            self._replace(record, read(record.files))
        except CertificateError as error:
            self._complain(record, str(error))

    def _complain(self, record: _Record, reason: str) -> None:
        """Say it once, until it changes."""
        if record.complaint != reason:
            record.complaint = reason
            kept = "; it is served as it was" if record.certificate is not None else "; it is not served"
            self._lines.append(Complaint(reason + kept))

    def _replace(self, record: _Record, new: Certificate | None) -> None:
        """Put it into the index instead of what was there."""
        old, record.certificate = record.certificate, new
        if old is not None:
            for name in old.names:
                left = tuple(other for other in self._by_name[name] if other is not old)
                self._by_name[name] = left
                if not left:
                    del self._by_name[name]
            for key in [key for key in self._contexts if old in key[0]]:
                del self._contexts[key]
        for name in new.names if new is not None else ():
            self._by_name[name] = (*self._by_name.get(name, ()), new)  # type: ignore[arg-type]

    # --- going over all ---

    def _rescan(self, until: float, begin: Callable[[_Record], object]) -> None:
        """Go on asking the sources for their files, if that is due or was left over."""
        if self._scan is None and not self._scan_due():
            return
        scan, self._scan = self._scan or iter(()), None
        try:
            for files in scan:
                record = self._records.get(files)
                if record is None:
                    record = self._records[files] = _Record(files)
                    begin(record)
                self._scanned[record.files] = None
                if self._clock() >= until:
                    self._scan = scan
                    return
        except CertificateError as error:
            self._say_of_scan(str(error))
        else:
            self._say_of_scan("")
            self._forget_missing()

    def _scan_due(self) -> bool:
        """Begin a scan if a source has changed, or none was made for some time."""
        stamps = [source.stamp() for source in self._sources]
        self._looks_to_scan -= 1
        if stamps == self._stamps and self._looks_to_scan > 0:
            return False
        # once more in the next look: a folder may have been looked into while it was being filled
        self._looks_to_scan = 1 if stamps != self._stamps else SLICES
        self._stamps, self._scanned = stamps, {}
        self._scan = chain.from_iterable(source.scan() for source in self._sources)
        return True

    def _say_of_scan(self, reason: str) -> None:
        if reason and reason != self._scan_complaint:
            self._lines.append(Complaint(f"{reason}; what was found before stays"))
        self._scan_complaint = reason

    def _forget_missing(self) -> None:
        """Drop what two scans have not found: certbot takes a link away before it makes the new one."""
        missing: set[Files] = set()
        if len(self._records) > len(self._scanned):
            missing = self._records.keys() - self._scanned.keys()
        for files in missing & self._missing:
            self._replace(self._records.pop(files), None)
            self._lines.append(f"{files.certificate} is gone and no longer served")
        self._missing = missing & self._records.keys()
        if self._missing:
            self._looks_to_scan = 1
        elif list(self._records) != list(self._scanned):
            self._records = {files: self._records[files] for files in self._scanned}

    def _go_over(self, until: float) -> None:
        """Look at the next slice of files."""
        records = list(self._records.values())
        for _ in range(min(len(records), max(SLICE, math.ceil(len(records) / SLICES)))):
            self._next = (self._next + 1) % len(records)
            self._refresh(records[self._next])
            if self._clock() >= until:
                return


class _Unusable(Exception):
    """The key does not belong to the certificate, or such; seen when it was first used."""

    def __init__(self, certificate: Certificate, reason: str) -> None:
        super().__init__(reason)
        self.certificate = certificate


def _best(chosen: tuple[Certificate, ...]) -> tuple[Certificate, ...]:
    """Return those of each kind that expire last; of equals, the first."""
    if len(chosen) == 1:
        return chosen
    best: dict[str, Certificate] = {}
    for certificate in chosen:
        if certificate.expires_s > best.setdefault(certificate.kind, certificate).expires_s:
            best[certificate.kind] = certificate
    return tuple(best.values())
