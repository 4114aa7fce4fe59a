"""TLS towards clients and towards nodes: the contexts, and what is wrong with a certificate, in one sentence.

Clients: `listener_context` is what a listener starts with. It has no certificate of its own: at the name a
client asks for (SNI) it passes the handshake on to a context of the store. OpenSSL takes the options, the
version and the keys of session tickets from the first context, and certificate, ciphers and ALPN from the
second (SSL_set_SSL_CTX), so `blank_context` makes both alike. Nodes: `upstream_context`.
"""

from __future__ import annotations

import logging
import os
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from trackproxy.errors import TrackproxyError
from trackproxy.telling import tell

if TYPE_CHECKING:
    from trackproxy.certificates.index import Certificates
    from trackproxy.tickets import Tickets

log = logging.getLogger(__name__)

Minimum = Literal["1.2", "1.3"]

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

ALPN = ["http/1.1"]

# Mozilla, Server Side TLS 5.7, "intermediate", without DHE: all forward secret and AEAD.
CIPHERS = ":".join(
    f"ECDHE-{key}-{cipher}"
    for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
    for key in ("ECDSA", "RSA")
)

WEAK_BITS = 112  # NIST SP 800-131A: less is no encryption; 3DES and NULL are below


class CertificateError(TrackproxyError):
    """A certificate or its key cannot be used; the message names the file and the reason."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a listener asks of a handshake.

    ciphers: an OpenSSL cipher list for TLS 1.2; empty is `CIPHERS`. Those of TLS 1.3 are all good.
    """

    minimum: Minimum = "1.2"
    ciphers: str = ""


def blank_context(rules: Rules) -> ssl.SSLContext:
    """Return a context for clients without a certificate; raises ValueError as `check_ciphers` does."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[rules.minimum]
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE  # all are good, and phones know what they are fast at
    context.num_tickets = 1  # each costs 12 us, and one is enough to come back with
    context.set_alpn_protocols(ALPN)
    try:
        context.set_ciphers(rules.ciphers or CIPHERS)
    except ssl.SSLError as error:
        raise ValueError(f"no cipher known to OpenSSL is in {rules.ciphers!r}") from error
    return context


def listener_context(
    certificates: Certificates, *, minimum: Minimum = "1.2", ciphers: str = "", tickets: Tickets | None = None
) -> ssl.SSLContext:
    """Return the context of a listener, which serves CERTIFICATES by name, as they are at each handshake.

    tickets: sessions are resumed by all processes that share them; call `apply` on this context again
    whenever they are `due`. None: only by this process. Raises ValueError as `check_ciphers` does.
    """
    rules = Rules(minimum, ciphers)
    context = blank_context(rules)
    context.sni_callback = _chooser(certificates, rules)
    if tickets is not None:
        tickets.apply(context, time.time())
    return context


ASKED_NAME = "asked_name"  # attribute of a connection: what SNI says, for the access log
Chooser = Callable[[ssl.SSLObject, "str | None", ssl.SSLContext], "int | None"]


def _chooser(certificates: Certificates, rules: Rules) -> Chooser:
    """Return what OpenSSL calls in each handshake, also in one without a name."""
    said = ""

    def choose(connection: ssl.SSLObject, name: str | None, _first: ssl.SSLContext) -> int | None:
        nonlocal said
        if name is not None:
            setattr(connection, ASKED_NAME, name)
        try:
            connection.context = certificates.find(name, rules)
        except Exception as error:  # noqa: BLE001 - OpenSSL is above: it would only print it
            if said != str(error):
                said = str(error)
                unforeseen = None if isinstance(error, CertificateError) else error
                fields = {"state": "wrong", "reason": said, "exc_info": unforeseen}
                tell(log, logging.ERROR, "certificate", "TLS handshakes fail: %s", error, **fields)
            return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
        return None

    return choose


def told_of(connection: ssl.SSLObject) -> dict[str, str]:
    """Return what an access log tells of a client's TLS."""
    told = {"tls": connection.version() or "", "cipher": (connection.cipher() or ("",))[0]}
    if name := getattr(connection, ASKED_NAME, ""):
        told["sni"] = name
    return told


def check_ciphers(text: str) -> None:
    """Raise ValueError with a sentence unless TEXT is an OpenSSL list of ciphers that are still ciphers."""
    for word in filter(None, text.replace(",", ":").replace(" ", ":").split(":")):
        if word.startswith("TLS_"):
            raise ValueError(f'"{word}" is a cipher of TLS 1.3, which are always on: name those of TLS 1.2')
        if word[0] not in "!-+@":
            _selected(word)  # OpenSSL skips words that it does not know
    for cipher in _selected(text or CIPHERS):
        if int(cipher["strength_bits"]) < WEAK_BITS or cipher["auth"] == "auth-null":
            raise ValueError(f'"{text}" has {cipher["name"]} in it, which protects nothing')


def _selected(text: str) -> list[ssl._Cipher]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.set_ciphers(text)
    except ssl.SSLError as error:
        raise ValueError(f'"{text}" is no cipher that OpenSSL knows') from error
    return context.get_ciphers()


def upstream_context(verify: bool, ca_file: str) -> ssl.SSLContext:
    """Return a context for TLS 1.2 and newer towards nodes; raises CertificateError.

    verify: the node's certificate, with its host name. ca_file: path of a PEM file with the authorities
    that are trusted; empty is those of this machine.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(ALPN)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if ca_file:
        _trust(context, ca_file)
    elif verify:
        context.load_default_certs()
    return context


def _trust(context: ssl.SSLContext, ca_file: str) -> None:
    try:
        context.load_verify_locations(ca_file)
    except ssl.SSLError as error:
        raise CertificateError(f"{ca_file} holds no PEM certificates") from error
    except OSError as error:
        raise CertificateError(f"{ca_file} cannot be read: {error.strerror}") from error


def server_context(certificate: str, private_key: str) -> ssl.SSLContext:
    """Return a context for TLS 1.2 and newer (RFC 8996), for one certificate; raises CertificateError.

    CERTIFICATE: path of a PEM file with the chain. PRIVATE_KEY: of its key; empty if it is in the same file.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, private_key or None, password=_no_password)
    except ssl.SSLError as error:
        raise CertificateError(_reason(certificate, private_key, error)) from error
    except OSError as error:
        files = certificate if not private_key else f"{certificate} or {private_key}"
        raise CertificateError(f"{files} cannot be read: {error.strerror}") from error
    except _Encrypted as error:
        raise CertificateError(f"the key in {private_key or certificate} is encrypted") from error
    return context


def load_pem(context: ssl.SSLContext, pem: bytes, certificate: str, private_key: str) -> None:
    """Give CONTEXT the chain and key in PEM; raises CertificateError, which names the two files.

    Certificates of another kind of key stay in it beside this one. A file in memory: Python takes paths only.
    """
    descriptor = os.memfd_create("certificate")
    try:
        os.write(descriptor, pem)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password=_no_password)
    except ssl.SSLError as error:
        raise CertificateError(_reason(certificate, private_key, error)) from error
    except _Encrypted as error:
        raise CertificateError(f"the key in {private_key or certificate} is encrypted") from error
    finally:
        os.close(descriptor)


class _Encrypted(Exception):
    """A password was asked for."""


def _no_password() -> str:
    raise _Encrypted


def _reason(certificate: str, private_key: str, error: ssl.SSLError) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"the key in {private_key or certificate} does not belong to the certificate in {certificate}"
    if error.reason in ("EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"):
        return f"{certificate} is too weak for OpenSSL: {error.reason}"
    return f"{certificate} and {private_key or 'its key'} are no PEM certificate with a key"
