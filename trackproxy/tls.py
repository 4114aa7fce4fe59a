"""TLS towards clients: the context of a service that ends it here."""

from __future__ import annotations

import ssl

from trackproxy.errors import TrackproxyError


class CertificateError(TrackproxyError):
    """A certificate or its key cannot be used; the message names the file and the reason."""


def server_context(certificate: str, private_key: str) -> ssl.SSLContext:
    """Return a context for TLS 1.2 and newer (RFC 8996); raises CertificateError.

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


class _Encrypted(Exception):
    """A password was asked for."""


def _no_password() -> str:
    raise _Encrypted


def _reason(certificate: str, private_key: str, error: ssl.SSLError) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"the key in {private_key or certificate} does not belong to the certificate in {certificate}"
    return f"{certificate} and {private_key or 'its key'} are no PEM certificate with a key"
