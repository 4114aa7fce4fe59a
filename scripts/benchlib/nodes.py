"""The nodes that all peers forward to: two nginx, and what they must have seen."""

from __future__ import annotations

import contextlib
import http.client
import os
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchlib.children import BenchError, Command, free_ports, running

CONF = Path(__file__).parent / "conf"
HOST = "track.lists.example"
PIXEL_BYTES = 43


def render(
    template: str, folder: Path, port: int, nodes: tuple[str, ...] = (), more: Mapping[str, str] | None = None
) -> Path:
    """Fill in one of the files of `conf/`; return where it was written. more: marks of that file alone."""
    text = (CONF / template).read_text()
    user = "user root;" if os.geteuid() == 0 else ""  # or its worker could not enter our folder
    values = {"@PORT@": str(port), "@USER@": user, "@SSL@": "", "@TLS@": ""}
    values |= {f"@NODE{number}@": node for number, node in enumerate(nodes, 1)}
    values |= more or {}
    for mark, value in values.items():
        text = text.replace(mark, value)
    path = folder / f"{port}-{template}"
    path.write_text(text)
    return path


def nginx_argv(conf: Path) -> list[str]:
    return ["nginx", "-p", str(conf.parent), "-e", "stderr", "-c", str(conf)]


@contextlib.contextmanager
def running_nodes(folder: Path, cores: str) -> Iterator[tuple[str, ...]]:
    """Two nodes; yields their addresses as host:port."""
    ports = free_ports(2)
    with contextlib.ExitStack() as stack:
        for port in ports:
            argv = nginx_argv(render("node.conf", folder, port))
            stack.enter_context(running(Command("node", argv, cores), port, folder))
        yield tuple(f"127.0.0.1:{port}" for port in ports)


def unverified_context() -> ssl.SSLContext:
    """For clients of a peer, whose certificate nobody has signed; they offer HTTP/1.1 alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context


def verify(name: str, port: int, scheme: str = "http") -> None:
    """One pixel through a peer, and one look at what the node saw; raises BenchError."""
    status, pixel = _get(port, "/db/1/1/1.gif", scheme)
    if status != 200 or len(pixel) != PIXEL_BYTES or not pixel.startswith(b"GIF89a"):
        raise BenchError(f"{name} does not return the pixel: status {status}, {len(pixel)} bytes")
    seen = _get(port, "/seen", scheme)[1].decode().split("\n")
    if seen[:3] != ["127.0.0.1", scheme, HOST]:
        raise BenchError(f"{name}: the node saw X-Forwarded-For, -Proto and Host as {seen}")


def _get(port: int, path: str, scheme: str) -> tuple[int, bytes]:
    with contextlib.closing(_connection(port, scheme)) as connection:
        connection.request("GET", path, headers={"Host": HOST})
        answer = connection.getresponse()
        return answer.status, answer.read()


def _connection(port: int, scheme: str) -> http.client.HTTPConnection:
    if scheme == "http":
        return http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    return http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=unverified_context())
