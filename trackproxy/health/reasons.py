"""Reasons: what an operator reads when a probe has failed, and whose fault it was."""

from __future__ import annotations

import errno
import ssl

# What this machine, not the node, is short of.
OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})

_SYSTEM = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "connection reset",
    errno.EPIPE: "connection reset",
    errno.EHOSTUNREACH: "host unreachable",
    errno.EHOSTDOWN: "host unreachable",
    errno.ENETUNREACH: "network unreachable",
    errno.ENOENT: "there is no such socket",
    errno.EACCES: "permission denied",
    errno.EAGAIN: "too many connections wait to be taken",  # how a UNIX socket says that its queue is full
}


class ProbeFailed(Exception):
    """The endpoint has not passed; the message is the reason."""


def is_local(error: Exception) -> bool:
    """Return whether it was this machine that could not probe."""
    return isinstance(error, OSError) and error.errno in OUT_OF_RESOURCES


def reason_of(error: Exception) -> str:
    """Return one phrase; the messages of libraries are for what has no words here."""
    if isinstance(error, ssl.SSLError):
        return tls_reason(error)
    if isinstance(error, OSError):
        return _system_reason(error)
    import aiohttp  # here, since workers need all of this but probes' own words

    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "closed without an answer"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the answer broke off"
    if isinstance(error, aiohttp.ClientResponseError):
        return "the answer is malformed"
    return str(error) if isinstance(error, ProbeFailed) else f"{type(error).__name__}: {error}"


def tls_reason(error: ssl.SSLError) -> str:
    """Return why there is no TLS with a node, in one phrase."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not good: {error.verify_message}"
    return f"no TLS: {(error.reason or str(error)).lower().replace('_', ' ')}"


def _system_reason(error: OSError) -> str:
    code = error.errno or 0
    if code in OUT_OF_RESOURCES:
        return f"this machine cannot probe: {error.strerror}"
    if code < 0:  # EAI_NONAME and its like, of getaddrinfo
        return f"the name cannot be looked up: {error.strerror}"
    return _SYSTEM.get(code) or error.strerror or str(error) or type(error).__name__
