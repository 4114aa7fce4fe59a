"""Who is measured with `--tls`: peers of the rounds with a certificate, and their own defaults otherwise."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from benchlib.nodes import HOST, nginx_argv, render
from benchlib.peers import PEERS, TRACKPROXY, Peer, Site, trackproxy_with

VALID = timedelta(days=30)


def make_certificate(folder: Path, host: str = HOST) -> Path:
    """A key (ECDSA, P-256) and its certificate for a host, which nobody else has signed, in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - VALID)
        .not_valid_after(now + VALID)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{host}.pem"
    path.touch(mode=0o600)
    path.write_bytes(
        certificate.public_bytes(Encoding.PEM)
        + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    return path


def tls_peers(pem: Path) -> dict[str, Peer]:
    """pem: as `make_certificate` writes it."""
    return {
        "trackproxy": Peer("trackproxy", str(TRACKPROXY), partial(_trackproxy, pem=pem)),
        "haproxy": Peer("HAProxy", "haproxy", PEERS["haproxy"].argv, {"TLS": str(pem)}),
        "nginx": Peer("nginx", "nginx", partial(_nginx, pem=pem)),
    }


def _trackproxy(site: Site, pem: Path) -> list[str]:
    listen = f'listen = ["127.0.0.1:{site.port}"]\ncertificates = [{{ certificate = "{pem}" }}]\n'
    plain = f'listen = ["unix:{site.folder}/{site.port}.sock"]\n'  # nobody comes here
    return trackproxy_with(site, f"{plain}\n[services.web.tls]\n{listen}")


def _nginx(site: Site, pem: Path) -> list[str]:
    tls = render("nginx-tls.conf", site.folder, site.port, more={"@PEM@": str(pem)})
    more = {"@SSL@": " ssl", "@TLS@": f"include {tls};"}
    return nginx_argv(render("nginx.conf", site.folder, site.port, site.nodes, more))
