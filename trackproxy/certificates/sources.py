"""Which certificates there are: another way to come by certificates is another `Source`."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from trackproxy.tls import CertificateError


@dataclass(frozen=True, slots=True)
class Files:
    """One certificate: paths of its chain and of its key; these are the same file if it holds both."""

    certificate: str
    key: str


class Source(Protocol):
    """Says which certificates there are."""

    def scan(self) -> Iterable[Files]:
        """Yield all files, in the order in which they are the default; may be read slowly.

        Raises CertificateError, then or later, if they cannot be told: all stays as it was.
        """

    def stamp(self) -> Hashable:
        """Return what differs from the last time, cheaply, if `scan` may yield other files now."""


class FileSource:
    """Certificates named one by one, and a folder of them in which each entry is one.

    The entries may be NAME.pem with chain and key; NAME.pem, .crt or .cer with NAME.key; or NAME/ with
    fullchain.pem and privkey.pem, as certbot has it. Others, and hidden ones, are not looked at.
    The default is the first of those named one by one, or else the first of the folder by name.
    """

    def __init__(self, pairs: Sequence[tuple[str, str]], folder: str) -> None:
        """Take PAIRS of certificate and key (empty: the same file) and the path of a FOLDER, or empty."""
        self._pairs = [Files(certificate, key or certificate) for certificate, key in pairs]
        self._folder = folder

    def scan(self) -> Iterator[Files]:
        """Yield the pairs, then the folder by name; raises CertificateError for one without any."""
        yield from self._pairs
        if self._folder:
            found = False
            for files in self._in_folder():
                found = True
                yield files
            if not found:
                raise CertificateError(f"{self._folder} holds no certificates")

    def stamp(self) -> Hashable:
        """Return the folder's state; what is inside its folders does not count."""
        try:
            state = os.stat(self._folder) if self._folder else None
        except OSError:
            return None
        return state and (state.st_ino, state.st_mtime_ns)

    def _in_folder(self) -> Iterator[Files]:
        try:
            with os.scandir(self._folder) as entries:
                names = {entry.name: entry.is_dir() for entry in entries if not entry.name.startswith(".")}
        except OSError as error:
            raise CertificateError(f"{self._folder} cannot be read: {error.strerror}") from error
        for name in sorted(names):
            path = f"{self._folder}/{name}"
            if not names[name]:
                yield from self._flat(path, name, names)
            elif os.path.exists(f"{path}/fullchain.pem"):
                yield Files(f"{path}/fullchain.pem", f"{path}/privkey.pem")

    def _flat(self, path: str, name: str, names: dict[str, bool]) -> Iterator[Files]:
        stem, _, suffix = name.rpartition(".")
        better = {"pem": (), "crt": ("pem",), "cer": ("pem", "crt")}.get(suffix)
        if stem and better is not None and not any(f"{stem}.{other}" in names for other in better):
            yield Files(path, f"{self._folder}/{stem}.key" if f"{stem}.key" in names else path)
