"""Who gets through to the admin endpoint over real connections, and that nobody's token is shown."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.http_exceptions import BadHttpMessage

from tests.unit.test_api import FakeSupervisor, supervisor
from trackproxy.admin import access, guard
from trackproxy.admin.access import hash_of
from trackproxy.admin.api import application
from trackproxy.admin.guard import Guard
from trackproxy.admin.listener import AdminListener
from trackproxy.admin_sections import Admin
from trackproxy.pool.nodes import AdminState

__all__ = ["supervisor"]

READER, WRITER, LATER = "tp_reader", "tp_writer", "tp_later"


def settings(**changes: Any) -> Admin:
    tokens = [
        {"name": "rita", "role": "read", "hash": hash_of(READER)},
        {"name": "will", "role": "write", "hash": hash_of(WRITER)},
    ]
    return Admin.model_validate({"listen": "127.0.0.1:0", "tokens": tokens, **changes})


class Stage:
    """An admin endpoint and a client of it."""

    def __init__(self, supervisor: FakeSupervisor, session: aiohttp.ClientSession) -> None:
        self.supervisor = supervisor
        self.session = session
        self.guard = Guard(settings())
        self.listener = AdminListener(application(supervisor, self.guard.let_in))

    async def open(self, admin: Admin) -> str:
        self.guard.admin = admin
        await self.listener.move(self.listener.prepare(admin))
        return self.listener.addresses[0]

    async def ask(self, method: str, target: str, secret: str = "", **words: Any) -> aiohttp.ClientResponse:
        headers = {**words.pop("headers", {})}
        if secret:
            headers["Authorization"] = f"Bearer {secret}"
        async with self.session.request(
            method, f"http://{self.listener.addresses[0]}{target}", headers=headers, **words
        ) as response:
            await response.read()
            return response

    def is_disabled(self) -> bool:
        return self.supervisor.cluster.states["node1"] is AdminState.DISABLED


@pytest.fixture
async def stage(supervisor: FakeSupervisor) -> AsyncIterator[Stage]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(20)) as session:
        stage = Stage(supervisor, session)
        await stage.open(settings())
        yield stage
        await stage.listener.close()


DISABLE = "/api/v1/nodes/node1/disable"


async def test_a_token_for_reading_reads_and_one_for_writing_writes(stage: Stage) -> None:
    assert (await stage.ask("GET", "/api/v1/nodes")).status == 401
    assert (await stage.ask("GET", "/api/v1/nodes", READER)).status == 200
    assert (await stage.ask("POST", DISABLE)).status == 401
    assert (await stage.ask("POST", DISABLE, READER)).status == 403
    assert not stage.is_disabled()
    assert (await stage.ask("POST", DISABLE, WRITER)).status == 200
    assert stage.is_disabled()
    source = (await (await stage.ask("GET", "/api/v1/nodes/node1", READER)).json())["sources"]["state"]
    assert source["changed_by"] == "will"


async def test_a_session_says_who_asks(stage: Stage) -> None:
    answer = await (await stage.ask("GET", "/api/v1/session", READER)).json()
    assert answer == {"name": "rita", "role": "read", "by": "token"}
    stage.guard.admin = settings(tokens=[])
    answer = await (await stage.ask("GET", "/api/v1/session")).json()
    assert answer == {"name": None, "role": "write", "by": "none"}


async def test_nothing_but_its_state_is_told_to_who_has_no_token(stage: Stage) -> None:
    assert await (await stage.ask("GET", "/healthz")).json() == {"status": "alive"}
    assert await (await stage.ask("GET", "/readyz")).json() == {"status": "ready"}
    for target in (
        "/api/v1/openapi.json",
        "/api/v1/status",
        "/metrics",
        "/nothing",
        "//healthz",
        "/healthz/",
    ):
        assert (await stage.ask("GET", target)).status == 401, target
    assert (await stage.ask("POST", "/healthz")).status == 401


async def test_the_dashboard_needs_no_token_and_keeps_its_own_policy(stage: Stage) -> None:
    page = await stage.ask("GET", "/")
    assert page.status == 200
    assert "script-src 'self'" in page.headers["Content-Security-Policy"]
    [script, *_] = re.findall(r'src="(/?static/[^"]+)"', await page.text())
    assert (await stage.ask("GET", f"/{script.lstrip('/')}")).status == 200
    assert (await stage.ask("POST", "/")).status == 401


async def test_tokens_change_without_a_cut_connection(stage: Stage) -> None:
    connector = aiohttp.TCPConnector(limit=1)
    async with aiohttp.ClientSession(connector=connector) as stage.session:
        assert (await stage.ask("GET", "/api/v1/nodes", READER)).status == 200
        later = {"name": "lea", "role": "read", "hash": hash_of(LATER)}
        [connection] = next(iter(connector._conns.values()))
        stage.guard.admin = settings(tokens=[later])
        assert (await stage.ask("GET", "/api/v1/nodes", LATER)).status == 200
        assert (await stage.ask("GET", "/api/v1/nodes", READER)).status == 401
        assert [connection[0]] == [one[0] for one in next(iter(connector._conns.values()))]


@pytest.mark.parametrize("target", ["/", "/api/v1/nodes"])
async def test_a_name_that_is_not_ours_gets_nothing(stage: Stage, target: str) -> None:
    """DNS rebinding: the browser believes that we are its page's own server."""
    headers = {"Host": "evil.example"}
    assert (await stage.ask("GET", target, WRITER, headers=headers)).status == 421
    assert (await stage.ask("POST", DISABLE, WRITER, headers=headers)).status == 421
    assert not stage.is_disabled()
    stage.guard.admin = settings(tokens=[])
    assert (await stage.ask("POST", DISABLE, headers=headers)).status == 421
    assert (await stage.ask("GET", "/readyz", headers=headers)).status == 200


async def test_a_name_of_the_settings_is_ours(stage: Stage) -> None:
    stage.guard.admin = settings(hosts=["balancer.example.com"])
    headers = {
        "Host": "balancer.example.com",
        "Origin": "https://balancer.example.com",
    }  # TLS ended before us
    assert (await stage.ask("POST", DISABLE, WRITER, headers=headers)).status == 200


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"Origin": "http://evil.example"}, None, 403),
        ({"Origin": "null"}, None, 403),
        ({"Sec-Fetch-Site": "cross-site"}, None, 403),
        ({"Sec-Fetch-Site": "same-site"}, None, 403),
        ({"Content-Type": "application/x-www-form-urlencoded"}, b"a=b", 415),
        ({"Content-Type": "text/plain"}, b"{}", 415),
        ({"Content-Type": "multipart/form-data; boundary=x"}, b"--x--", 415),
        ({}, None, 200),
        ({"Content-Type": "application/x-www-form-urlencoded"}, None, 200),
        ({"Content-Type": "application/json; charset=utf-8"}, b"{}", 200),
        ({"Sec-Fetch-Site": "same-origin"}, None, 200),
    ],
)
async def test_no_other_page_changes_anything_where_no_token_is_needed(
    stage: Stage, headers: dict[str, str], body: bytes | None, status: int
) -> None:
    stage.guard.admin = settings(tokens=[])
    assert (await stage.ask("POST", DISABLE, headers=headers, data=body)).status == status
    assert stage.is_disabled() == (status == 200)


async def test_a_preflight_is_given_nothing(stage: Stage) -> None:
    stage.guard.admin = settings(tokens=[])
    headers = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    response = await stage.ask("OPTIONS", DISABLE, headers=headers)
    assert response.status == 403
    assert not [name for name in response.headers if name.startswith("Access-Control")]


async def test_a_unix_socket_needs_no_name_and_no_token(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    await stage.open(settings(listen=f"unix:{path}", tokens=[]))
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
        async with session.post(f"http://anything{DISABLE}") as response:
            assert response.status == 200
        stage.guard.admin = settings(listen=f"unix:{path}")
        async with session.get("http://anything/api/v1/nodes") as response:
            assert response.status == 401


# --- wrong tokens ---


async def test_a_wrong_token_waits_while_a_right_one_does_not(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(access, "FIRST_S", 1.0)
    began = time.monotonic()
    with caplog.at_level(logging.WARNING):
        wrong = asyncio.create_task(stage.ask("GET", "/api/v1/nodes", "tp_wrong"))
        while not stage.guard._waiting:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)
        for _ in range(10):
            assert (await stage.ask("GET", "/api/v1/nodes", READER)).status == 200
        assert not wrong.done()
        assert (await wrong).status == 401
    assert time.monotonic() - began >= 1.0
    assert "1 wrong token(s) in a row from 127.0.0.1" in caplog.text
    assert "tp_wrong" not in caplog.text


async def test_many_wrong_tokens_at_once_are_refused_and_keep_nobody_out(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "MOST_WAITING", 3)
    monkeypatch.setattr(access, "FIRST_S", 0.5)
    wrong = [stage.ask("GET", "/api/v1/nodes", f"tp_{number}") for number in range(10)]
    answers = asyncio.gather(*wrong)
    assert (await stage.ask("GET", "/api/v1/nodes", READER)).status == 200
    statuses = sorted(answer.status for answer in await answers)
    assert statuses == [401] * 3 + [429] * 7


@pytest.mark.parametrize(
    "line",
    [
        b"Authorization: Bearer tp_writer\0",
        b"Authorization : Bearer tp_writer",
        b"Authorization: Bearer tp_writer" + b"x" * 10_000,
        b"Author\xff: Bearer tp_writer",
    ],
)
async def test_the_log_of_what_is_no_http_shows_no_token(
    stage: Stage, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, line: bytes
) -> None:
    monkeypatch.setattr(guard, "QUIET_S", 0.0)
    host, port = stage.listener.addresses[0].split(":")
    with caplog.at_level(logging.DEBUG):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + line + b"\r\n\r\n")
        async with asyncio.timeout(10):
            assert b" 400 " in (await reader.readline())
        writer.close()
    assert "no HTTP, from 127.0.0.1" in caplog.text
    assert "tp_writer" not in caplog.text
    assert "Traceback" not in caplog.text


def test_the_log_counts_what_is_no_http_and_does_not_repeat_itself() -> None:
    quiet, error = guard.NoHttp(), BadHttpMessage("tp_writer")

    def said(at: float) -> str | None:
        record = logging.LogRecord(
            "admin", logging.ERROR, "", 0, "%s", ("10.0.0.1",), (type(error), error, None)
        )
        record.created = at
        return record.getMessage() if quiet.filter(record) else None

    first = "the admin endpoint has refused what is no HTTP, from 10.0.0.1"
    assert [said(at) for at in (100.0, 101.0, 109.9)] == [first, None, None]
    assert said(110.0) == f"{first}, and 2 times before"
    assert said(120.0) == first


async def test_no_error_shows_a_token(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.supervisor.reloads.next = RuntimeError("broken")
    with caplog.at_level(logging.DEBUG):
        response = await stage.ask("POST", "/api/v1/reload", WRITER)
    assert response.status == 500
    assert WRITER not in await response.text()
    assert "broken" in caplog.text
    assert WRITER not in caplog.text
