"""Session tickets that every process can read: a client resumes its TLS session with any worker.

OpenSSL makes the keys of tickets at random in each context, and Python's ssl has no call to set them, so
`Tickets` reaches the SSL_CTX below a context through ctypes. It is the first field after the head of the
object in CPython; before it is used, the library has to be the one Python was linked with, the
address has to be memory of ours, and what it answers has to be what Python says. If anything is unexpected,
sessions are resumed only by the process that began them.

A ticket is read with the keys of the listener's own context, whatever SNI has switched to.
"""

from __future__ import annotations

import _ssl
import ctypes
import functools
import hashlib
import logging
import ssl
import sys

log = logging.getLogger(__name__)

PERIOD_S = 43_200  # half a day: for so long a stolen key opens what was recorded
KEY_BYTES = 80  # name 16, HMAC 32, AES 32 (OpenSSL 1.1.0 and newer)

# Of openssl/ssl.h: SSL_CTRL_SET_SESS_CACHE_MODE, SSL_CTRL_GET_TLSEXT_TICKET_KEYS and SET.
SET_CACHE, GET_KEYS, SET_KEYS = 44, 58, 59
CACHE_OFF = 0


class Tickets:
    """The keys of session tickets, alike in all processes that share a secret, and new every half day.

    They follow from the secret and the time alone, so all change at the same moment: clients then begin
    new sessions.
    """

    def __init__(self, secret: bytes) -> None:
        """Take the SECRET: at least 16 bytes that nobody else knows; raises ValueError."""
        if len(secret) < 16:
            raise ValueError("the secret of session tickets needs at least 16 bytes")
        self._secret = hashlib.blake2b(secret).digest()
        self._period = -1

    def due(self, now_s: float) -> bool:
        """Return whether `apply` has to be called (again) at this time, in seconds since 1970."""
        return int(now_s // PERIOD_S) != self._period

    def apply(self, context: ssl.SSLContext, now_s: float) -> bool:
        """Set the keys of this time; False, after a line in the log, if that cannot be done here."""
        self._period = int(now_s // PERIOD_S)
        try:
            _set_keys(context, self._keys(self._period))
        except (_Unexpected, OSError, AttributeError, ValueError) as error:
            _say(str(error))
            return False
        return True

    def _keys(self, period: int) -> bytes:
        def half(part: int) -> bytes:
            text = b"%d/%d" % (period, part)
            return hashlib.blake2b(text, key=self._secret, person=b"tls tickets", digest_size=40).digest()

        return half(0) + half(1)


class _Unexpected(Exception):
    """Python or OpenSSL is not what it is known to be; the message says in what."""


@functools.cache
def _say(reason: str) -> None:
    """Log it, once in each process."""
    log.warning("TLS sessions are resumed only by the process that began them: %s", reason)


@functools.cache
def _library() -> ctypes.CDLL:
    """Return libssl as Python uses it: the one that its module was linked with, or is made of."""
    if sys.implementation.name != "cpython":
        raise _Unexpected(f"this is {sys.implementation.name}")
    library = ctypes.CDLL(getattr(_ssl, "__file__", None))
    library.OpenSSL_version_num.restype = ctypes.c_ulong
    if library.OpenSSL_version_num() != ssl.OPENSSL_VERSION_NUMBER:
        raise _Unexpected("another OpenSSL than Python's was found")
    library.SSL_CTX_get_options.argtypes = [ctypes.c_void_p]
    library.SSL_CTX_get_options.restype = ctypes.c_ulong
    library.SSL_CTX_get_verify_mode.argtypes = [ctypes.c_void_p]
    library.SSL_CTX_ctrl.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p]
    library.SSL_CTX_ctrl.restype = ctypes.c_long
    return library


def _set_keys(context: ssl.SSLContext, keys: bytes) -> None:
    """Set them and look whether they are; raises _Unexpected, OSError, AttributeError or ValueError."""
    library = _library()
    address = _address(context)
    if library.SSL_CTX_ctrl(address, GET_KEYS, 0, None) != KEY_BYTES:
        raise _Unexpected("OpenSSL has keys of another length")
    if library.SSL_CTX_ctrl(address, SET_KEYS, KEY_BYTES, keys) != 1:
        raise _Unexpected("OpenSSL did not take the keys")
    taken = ctypes.create_string_buffer(KEY_BYTES)
    if library.SSL_CTX_ctrl(address, GET_KEYS, KEY_BYTES, taken) != 1 or taken.raw != keys:
        raise _Unexpected("OpenSSL has other keys than it was given")
    # What a ticket says need not be remembered: 20,480 sessions in each listener's context otherwise.
    library.SSL_CTX_ctrl(address, SET_CACHE, CACHE_OFF, None)


def _address(context: ssl.SSLContext) -> int:
    """Return where its SSL_CTX is."""
    library = _library()
    field = id(context) + object.__basicsize__
    address = ctypes.c_void_p.from_address(field).value or 0
    if address % ctypes.sizeof(ctypes.c_void_p) or not _is_ours(address):
        raise _Unexpected("Python's contexts are laid out differently")
    options = library.SSL_CTX_get_options(address)
    mode = library.SSL_CTX_get_verify_mode(address)
    if (options ^ context.options) & 0xFFFFFFFF or mode != context.verify_mode:
        raise _Unexpected("Python's contexts are laid out differently")
    return address


def _is_ours(address: int) -> bool:
    """Return whether the page may be read and written; raises OSError."""
    with open("/proc/self/maps", encoding="ascii", errors="replace") as maps:
        for line in maps:
            span, access, _ = line.split(" ", 2)
            first, _, last = span.partition("-")
            if int(first, 16) <= address < int(last, 16):
                return access.startswith("rw")
    return False
