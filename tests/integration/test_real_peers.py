"""Real servers and clients on both sides: nginx as the node, curl and wrk as clients."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.conftest import Stage

DEADLINE_S = 20.0
BIG = random.Random(43).randbytes(8 << 20)
NGINX = """
daemon off; user root root; worker_processes 1; pid {home}/pid; error_log stderr error;
events {{ worker_connections 512; }}
http {{
  access_log off; client_max_body_size 0; keepalive_requests 25;
  client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;
  server {{
    listen {address}; root {home}/www;
    location /up/ {{ dav_methods PUT; }}
    location = /post {{ return 200 "$request_method $content_length $http_expect.\\n"; }}
    location = /pixel {{ empty_gif; }}
  }}
}}
"""


def needs(program: str) -> pytest.MarkDecorator:
    """Skip without this program."""
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


pytestmark = needs("nginx")


async def run(*command: str) -> str:
    """Run to the end; what it printed."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    try:
        async with asyncio.timeout(DEADLINE_S):
            out, errors = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    assert process.returncode == 0, f"{command}: {process.returncode}, {errors.decode()}"
    return out.decode("latin-1")


async def curl(*arguments: str) -> str:
    """Run curl; the answers with their heads."""
    return await run("curl", "--silent", "--show-error", "--include", "--noproxy", "*", *arguments)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A web site of nginx."""
    for folder in ("www/up", "body"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "www/page.html").write_text("<p>page</p>", encoding="ascii")
    (tmp_path / "www/big.bin").write_bytes(BIG)
    return tmp_path


@pytest.fixture
async def url(stage: Stage, home: Path) -> AsyncIterator[str]:
    """Where the proxy serves an nginx that listens on a socket of ours, so that no port can be lost."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        conf = home / "nginx.conf"
        conf.write_text(NGINX.format(home=home, address=address), encoding="ascii")
        process = await asyncio.create_subprocess_exec(
            *("nginx", "-e", "stderr", "-p", str(home), "-c", str(conf)),
            env={**os.environ, "NGINX": f"{listener.fileno()};"},
            pass_fds=[listener.fileno()],
        )
        try:
            yield f"http://{await stage.start_proxy([address])}"
        finally:
            process.terminate()
            async with asyncio.timeout(DEADLINE_S):
                await process.wait()


@needs("curl")
async def test_curl_gets_a_page(url: str) -> None:
    page = await curl(f"{url}/page.html")
    assert page.startswith("HTTP/1.1 200 OK\r\n")
    assert page.endswith("\r\n\r\n<p>page</p>")


@needs("curl")
async def test_curl_gets_the_head_of_a_page(url: str) -> None:
    head = await curl("--head", f"{url}/page.html")
    assert "Content-Length: 11\r\n" in head
    assert head.endswith("\r\n\r\n")


@needs("curl")
async def test_curl_gets_a_range_of_a_file(url: str) -> None:
    part = await curl("--range", "3-6", f"{url}/page.html")
    assert part.startswith("HTTP/1.1 206 ")
    assert part.endswith("\r\n\r\npage")


@needs("curl")
async def test_curl_is_told_that_a_page_has_not_changed(url: str) -> None:
    page = await curl(f"{url}/page.html")
    (etag,) = [line.partition(": ")[2] for line in page.split("\r\n") if line.lower().startswith("etag:")]
    again = await curl("--header", f"If-None-Match: {etag}", f"{url}/page.html")
    assert again.startswith("HTTP/1.1 304 ")


@needs("curl")
async def test_curl_gets_a_big_file(url: str, tmp_path: Path) -> None:
    await run("curl", "-sS", "--noproxy", "*", "--output", str(tmp_path / "got"), f"{url}/big.bin")
    assert (tmp_path / "got").read_bytes() == BIG


@needs("curl")
async def test_curl_posts_a_form(url: str) -> None:
    assert (await curl("--data", "a=1&b=2", f"{url}/post")).endswith("\r\n\r\nPOST 7 .\n")


@needs("curl")
async def test_curl_gets_a_page_with_http_1_0(url: str) -> None:
    page = await curl("--http1.0", f"{url}/page.html")
    assert " 200 OK\r\n" in page
    assert page.endswith("\r\n\r\n<p>page</p>")


@needs("curl")
@pytest.mark.parametrize(
    "header",
    ["Expect:", "Expect: 100-continue", "Transfer-Encoding: chunked"],
    ids=["plain", "expect", "chunked"],
)
async def test_curl_uploads_a_big_file(url: str, home: Path, header: str) -> None:
    source = home / "www/big.bin"
    reply = await curl("--header", header, "--upload-file", str(source), f"{url}/up/copy")
    assert " 201 Created\r\n" in reply
    assert reply.count("100 Continue") <= 1
    assert (home / "www/up/copy").read_bytes() == BIG


@needs("curl")
async def test_curl_uses_one_connection_for_many_pages(url: str) -> None:
    count = 60  # more than nginx answers on one connection
    pages = [f"{url}/page.html"] * count
    written = await curl("--write-out", "\n%{num_connects}\n", *pages)
    assert written.count("HTTP/1.1 200 OK\r\n") == count
    assert [line for line in written.split("\n") if line in ("0", "1")] == ["1"] + ["0"] * (count - 1)


@needs("wrk")
async def test_wrk_sees_no_error(url: str) -> None:
    report = await run("wrk", "--threads", "1", "--connections", "32", "--duration", "2s", f"{url}/pixel")
    assert "Socket errors" not in report
    assert "Non-2xx" not in report
    assert int(report.partition(" requests in ")[0].split()[-1]) > 0
