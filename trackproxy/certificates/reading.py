"""One certificate: what is read from its files, and whether it can be used."""

from __future__ import annotations

import os
import ssl
import stat
import time
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.x509.oid import NameOID

from trackproxy.certificates.sources import Files
from trackproxy.tls import CertificateError, load_pem

MAX_BYTES = 1 << 20  # of one file; a chain with its key has some thousand
YOUNG_S = 0.1  # a file may change twice within one tick of the file system's clock, and look alike


@dataclass(frozen=True, slots=True, eq=False)
class Certificate:
    """What was read from its files.

    names: as a client may ask for them, in lower case. kind: of its key; one context holds one of each kind.
    begins_s, expires_s: seconds since 1970. pem: chain and key.
    """

    files: Files
    names: tuple[str, ...]
    kind: str
    begins_s: float
    expires_s: float
    pem: bytes

    def __str__(self) -> str:
        until = datetime.fromtimestamp(self.expires_s, UTC)
        return f"{self.files.certificate} for {', '.join(self.names) or 'no name'} until {until:%Y-%m-%d}"


def read(files: Files) -> Certificate:
    """Read a certificate; raises CertificateError. Whether the key belongs to it is for `verify`."""
    pem = _content(files.certificate)
    begin, end = pem.find(b"-----BEGIN CERTIFICATE-----"), pem.find(b"-----END CERTIFICATE-----")
    if not 0 <= begin < end:
        raise CertificateError(f"{files.certificate} holds no PEM certificate")
    key = pem if files.key == files.certificate else _content(files.key)
    if b"PRIVATE KEY-----" not in key:
        raise CertificateError(f"{files.key} holds no PEM key")
    try:
        leaf = x509.load_pem_x509_certificate(pem[begin : end + 26])
        names = tuple(dict.fromkeys(_names(leaf)))
    except ValueError as error:
        raise CertificateError(f"{files.certificate} holds no certificate that can be read") from error
    return Certificate(
        files=files,
        names=names,
        kind=leaf.public_key_algorithm_oid.dotted_string,
        begins_s=leaf.not_valid_before_utc.timestamp(),
        expires_s=leaf.not_valid_after_utc.timestamp(),
        pem=pem if key is pem else b"%b\n%b" % (pem, key),
    )


def verify(certificate: Certificate) -> None:
    """Raise CertificateError unless a handshake can use it."""
    load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), certificate)


def load(context: ssl.SSLContext, certificate: Certificate) -> None:
    """Give CONTEXT a certificate; raises CertificateError if its key does not belong to it."""
    load_pem(context, certificate.pem, certificate.files.certificate, certificate.files.key)


def _names(leaf: x509.Certificate) -> Iterator[str]:
    """Yield the names it is for (RFC 6125, 6.4.4: the common name counts only without others)."""
    try:
        others = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        for attribute in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME):
            yield str(attribute.value).lower()
    else:
        for name in others.get_values_for_type(x509.DNSName):
            yield name.lower()


def _content(path: str) -> bytes:
    try:
        state = os.stat(path)
        if not stat.S_ISREG(state.st_mode) or state.st_size > MAX_BYTES:
            raise CertificateError(f"{path} is not a file of at most {MAX_BYTES >> 20} MiB")
        with open(path, "rb") as file:
            return file.read(MAX_BYTES)
    except OSError as error:
        raise CertificateError(f"{path} cannot be read: {error.strerror}") from error


def state_of(files: Files) -> Hashable:
    """Return what differs once the files have changed; None if they cannot be seen, or may change unseen."""
    states = []
    try:
        for path in (
            (files.certificate,) if files.key == files.certificate else (files.certificate, files.key)
        ):
            state = os.stat(path)
            states.append((state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns))
    except OSError:
        return None
    newest_s = max(changed_ns for *_, changed_ns in states) / 1e9
    return None if abs(time.time() - newest_s) < YOUNG_S else tuple(states)
