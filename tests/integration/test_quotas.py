"""Quotas: how many connections and requests a client may have, and that every one is given back."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import suppress
from typing import Any

import pytest

from tests.integration.conftest import Stage, until
from tests.integration.messages import Message, answer, post, request
from tests.integration.nodes import Exchange, silent
from tests.integration.test_tunnels import ASK, SWITCH, switching
from tests.integration.wire import DEADLINE_S, Wire, WireEnded, settle
from trackproxy.board import Board, Traffic
from trackproxy.http import gate
from trackproxy.proxy_protocol import header_v2

A_MOMENT_S = 0.1
TRUSTED = ["127.0.0.0/8"]


async def asked(client: Wire, raw: bytes = b"", method: bytes = b"GET") -> Message:
    """The answer to a request of this client."""
    await client.send(raw or request("/"))
    return await client.answer(method)


async def statuses(client: Wire, count: int, *fields: str) -> list[int]:
    return [(await asked(client, request("/", *fields))).status for _ in range(count)]


def limited(stage: Stage) -> int:
    """How many clients were refused so far, in the first worker."""
    causes = (Traffic.REFUSED_RATE, Traffic.REFUSED_CONNECTIONS)
    return sum(route.cells[cause] for route in stage.web.routes for cause in causes)


# --- connections ---


@pytest.mark.parametrize(
    ("settings", "status"),
    [({"max_connections": 2}, 503), ({"per_client": {"max_connections": 2}}, 429)],
    ids=["all", "one client"],
)
async def test_one_connection_too_many_is_told_so(
    stage: Stage, settings: dict[str, Any], status: int
) -> None:
    proxy = await stage.start_proxy([await stage.start_node()], **settings)
    first, second = [await stage.connect(proxy) for _ in range(2)]
    assert await statuses(first, 2) == await statuses(second, 2) == [200, 200]
    third = await stage.connect(proxy)
    reply = await asked(third)
    assert reply.status == status
    assert reply.tokens("Connection") == {b"close"}
    assert int(reply.value("Retry-After") or b"0") >= 1
    third.half_close()
    assert await third.rest() == b""
    assert third.ended == "eof"
    assert await statuses(first, 1) == [200]
    assert limited(stage) == 1
    first.close()
    await until(lambda: len(stage.web.open) == 1)
    assert await statuses(await stage.connect(proxy), 1) == [200]


async def test_a_client_that_sends_much_first_still_reads_why_it_was_refused(stage: Stage) -> None:
    proxy = await stage.start_proxy([await stage.start_node()], max_connections=1)
    await asked(await stage.connect(proxy))
    refused = await stage.connect(proxy)
    await refused.send(post("/", b"x" * 200_000))
    assert (await refused.answer()).status == 503
    refused.half_close()
    await refused.rest()
    assert (refused.ended, refused.broken) == ("eof", False)


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
async def test_curl_shows_the_refusal(stage: Stage) -> None:
    proxy = await stage.start_proxy([await stage.start_node()], max_connections=1)
    await asked(await stage.connect(proxy))
    process = await asyncio.create_subprocess_exec(
        *("curl", "-sS", "--data-binary", "x" * 1000, "-w", "%{http_code}", f"http://{proxy}/"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(2 * DEADLINE_S):
        printed, _ = await process.communicate()
    assert printed == b"503 Service Unavailable: too many connections\n503"


async def test_one_too_many_with_tls_costs_no_handshake(stage: Stage, certificate: str) -> None:
    https = {"certificates": [{"certificate": certificate}]}
    await stage.start_proxy([await stage.start_node()], https=https, per_client={"max_connections": 1})
    first = await stage.connect_securely()
    second = await stage.connect(stage.secure)
    assert await second.rest() == b""
    assert (await asked(first)).status == 200
    assert limited(stage) == 1


class Ends:
    """Ways in which connections end."""

    def __init__(self, stage: Stage, proxy: str) -> None:
        self.stage, self.proxy = stage, proxy

    async def close(self) -> None:
        (await self._client(request("/ok"))).close()

    async def reset(self) -> None:
        (await self._client(request("/ok"))).reset()

    async def half_close(self) -> None:
        client = await self._client(request("/ok"))
        client.half_close()
        await client.rest()

    async def connection_close(self) -> None:
        client = await self._client(request("/ok", "Connection: close"))
        await client.rest()

    async def refused_and_lingering(self) -> None:
        client = await self._client(b"NONSENSE\r\n\r\n")
        await client.rest()

    async def lingering_reset(self) -> None:
        (await self._client(b"NONSENSE\r\n\r\n")).reset()

    async def waiting_reset(self) -> None:
        client = await self.stage.connect(self.proxy)
        await client.send(request("/silent"))
        client.reset()

    async def tunnel(self) -> None:
        client = await self._client(ASK)
        client.close()

    async def tunnel_ended_by_the_node(self) -> None:
        client = await self._client(ASK + b"bye")
        await client.rest()
        client.close()

    async def cut(self) -> None:
        client = await self.stage.connect(self.proxy)
        await client.send(request("/cut"))
        await client.rest()

    async def unheard(self) -> None:
        (await self.stage.connect(self.proxy)).reset()

    async def one_too_many(self) -> None:
        clients = [await self.stage.connect(self.proxy) for _ in range(6)]
        await asyncio.gather(*(client.send(request("/ok")) for client in clients))
        for client in clients:
            assert (await client.answer()).status in (200, 429)
            client.close()

    async def tls(self) -> None:
        client = await self.stage.connect_securely()
        assert (await asked(client, request("/ok"))).status == 200
        client.close()

    async def tls_linger(self) -> None:
        client = await self.stage.connect_securely()
        assert (await asked(client, b"NONSENSE\r\n\r\n")).status == 400
        await client.farewell_said()
        client.close()

    async def tls_tunnel(self) -> None:
        client = await self.stage.connect_securely()
        assert (await asked(client, ASK)).status == 101
        client.close()

    async def tls_failed(self) -> None:
        client = await self.stage.connect(self.stage.secure)
        await client.send(b"this is no TLS")
        await client.rest()

    async def tls_aborted(self) -> None:
        client = await self.stage.connect_securely(shaken=False)
        await Wire.send(client, client.hello())
        client.reset()

    async def tls_in_time(self) -> None:
        await (await self.stage.connect(self.stage.secure)).rest()

    async def tls_one_too_many(self) -> None:
        clients = [await self.stage.connect(self.stage.secure) for _ in range(6)]
        await until(lambda: sum(bool(client.ended) for client in clients) >= 3)
        for client in clients:
            client.close()

    async def _client(self, raw: bytes) -> Wire:
        client = await self.stage.connect(self.proxy)
        await client.send(raw)
        await client.answer()
        return client


async def many_faced(exchange: Exchange) -> None:
    """Answer as the target says."""
    while True:
        seen = await exchange.request()
        if seen.target == b"/ok":
            await exchange.send(answer(body=b"ok"))
        elif seen.target == b"/cut":
            await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
            exchange.wire.close()
            return
        elif seen.target == b"/ws":
            await exchange.send(SWITCH)
            with suppress(WireEnded):
                await exchange.wire.exactly(3)
            exchange.wire.close()
            return


@pytest.mark.parametrize("end", [name for name in vars(Ends) if not name.startswith("_")])
async def test_the_place_of_a_connection_is_given_back_however_it_ends(
    stage: Stage, certificate: str, end: str
) -> None:
    proxy = await stage.start_proxy(
        [await stage.start_node(many_faced)],
        https={"certificates": [{"certificate": certificate}]},
        max_connections=3,
        per_client={"max_connections": 3},
        timeouts={"linger": "100ms", "tls_handshake": "200ms", "client_gone": "100ms"},
    )
    for _ in range(2 if end == "tls_in_time" else 4):
        await getattr(Ends(stage, proxy), end)()
        await stage.over()
    clients = [await stage.connect(proxy), await stage.connect_securely(), await stage.connect(proxy)]
    for client in clients:
        assert (await asked(client, request("/ok"))).status == 200
    assert (await asked(await stage.connect(proxy), request("/ok"))).status == 429


async def test_a_tunnel_counts_as_long_as_it_lasts(stage: Stage) -> None:
    proxy = await stage.start_proxy([await stage.start_node(switching)], per_client={"max_connections": 1})
    assert (await asked(await stage.connect(proxy), ASK)).status == 101
    assert (await asked(await stage.connect(proxy))).status == 429


async def test_workers_obey_a_limit_together(stage: Stage) -> None:
    board = Board.create(1, 2)
    node = await stage.start_node()
    proxies = [
        await stage.start_proxy([node], board=board, number=number, per_client={"max_connections": 4})
        for number in range(2)
    ]
    clients = [await stage.connect(proxies[number % 2]) for number in range(6)]
    got = [(await asked(client)).status for client in clients]
    assert sorted(got) == [200] * 4 + [429] * 2
    clients[0].close()
    await until(lambda: len(stage.workers[0].services["web"].open) < 3)
    assert (await asked(await stage.connect(proxies[1]))).status == 200
    assert (await asked(await stage.connect(proxies[0]))).status == 429


async def test_clients_are_independent_of_each_other(stage: Stage) -> None:
    headed: dict[str, Any] = {"accept_proxy_protocol": True, "trusted_proxies": TRUSTED}
    proxy = await stage.start_proxy([await stage.start_node()], per_client={"max_connections": 1}, **headed)
    got = {}
    for host in ("192.0.2.1", "192.0.2.2", "192.0.2.1", "2001:db8::1", "2001:db8::ffff:2", "2001:db8:0:1::1"):
        client = await stage.connect(proxy)
        await client.send(header_v2((host, 1), (host, 80)))
        got[host] = (await asked(client)).status
    assert got == {
        "192.0.2.1": 429,
        "192.0.2.2": 200,
        "2001:db8::1": 200,
        "2001:db8::ffff:2": 429,
        "2001:db8:0:1::1": 200,
    }


@pytest.mark.parametrize("headed", [False, True], ids=["X-Forwarded-For", "a header"])
async def test_a_trusted_proxys_connections_are_not_one_clients(
    stage: Stage, certificate: str, headed: bool
) -> None:
    proxy = await stage.start_proxy(
        [await stage.start_node()],
        https={"certificates": [{"certificate": certificate}]},
        per_client={"max_connections": 1},
        trusted_proxies=TRUSTED,
        accept_proxy_protocol=headed,
    )
    local = header_v2(None, None) if headed else b""
    for _ in range(2):
        plain = await stage.connect(proxy)
        await plain.send(local)
        secure = await stage.connect_securely(ahead=local)
        assert [(await asked(client)).status for client in (plain, secure)] == [200, 200]


async def test_who_is_refused_after_a_proxy_header_does_not_keep_a_worker_alive(
    stage: Stage, certificate: str
) -> None:
    await stage.start_proxy(
        [await stage.start_node()],
        https={"certificates": [{"certificate": certificate}]},
        per_client={"max_connections": 1},
        trusted_proxies=TRUSTED,
        accept_proxy_protocol=True,
        timeouts={"linger": "100ms"},
    )
    header = header_v2(("192.0.2.1", 1), ("192.0.2.2", 80))
    first = await stage.connect_securely(ahead=header)
    assert (await asked(first)).status == 200
    second = await stage.connect(stage.secure)
    await until(lambda: stage.web.connections == stage.web.upstreams + 2)
    stage.workers[0].retire(DEADLINE_S)
    await second.send(header)
    await second.rest()
    first.close()
    async with asyncio.timeout(DEADLINE_S / 2):
        await stage.workers[0].over.wait()


async def test_the_last_one_refused_after_a_proxy_header_ends_the_worker(
    stage: Stage, certificate: str
) -> None:
    board = Board.create(1, 2)
    node = await stage.start_node()
    service: dict[str, Any] = {
        "https": {"certificates": [{"certificate": certificate}]},
        "per_client": {"max_connections": 1},
        "trusted_proxies": TRUSTED,
        "accept_proxy_protocol": True,
    }
    header = header_v2(("192.0.2.1", 1), ("192.0.2.2", 80))
    await stage.start_proxy([node], board=board, number=0, **service)
    assert (await asked(await stage.connect_securely(ahead=header))).status == 200
    await stage.start_proxy([node], board=board, number=1, **service)
    late = await stage.connect(stage.secure)
    await until(lambda: stage.web.connections == 1)
    stage.workers[1].retire(10 * DEADLINE_S)
    await settle()
    await late.send(header)
    await late.rest()
    async with asyncio.timeout(DEADLINE_S):
        await stage.workers[1].over.wait()


# --- requests ---


class Clock:
    """Time for rates, which a test moves; it stands at the beginning of a window."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(gate, "time", clock)
    return clock


async def test_a_client_that_asks_too_often_is_told_when_it_may_again(stage: Stage, clock: Clock) -> None:
    client, node = await stage.through(per_client={"max_request_rate": 5})
    assert await statuses(client, 5) == [200] * 5
    reply = await asked(client)
    assert (reply.status, reply.value("Retry-After")) == (429, b"2")
    assert not reply.tokens("Connection")
    assert await statuses(client, 5) == [429] * 5
    assert len(node.requests) == 5
    assert limited(stage) == 6
    clock.now += 2
    assert (await asked(client)).status == 200


async def test_a_burst_may_come_at_once(stage: Stage, clock: Clock) -> None:
    client, _ = await stage.through(per_client={"max_request_rate": 2, "burst": 10})
    await client.send(request("/") * 12)
    replies = [await client.answer() for _ in range(12)]
    assert [reply.status for reply in replies] == [200] * 10 + [429] * 2
    clock.now += int(replies[-1].value("Retry-After") or b"0") - 1.1
    assert (await asked(client)).status == 429
    clock.now += 1.1
    assert (await asked(client)).status == 200


@pytest.mark.usefixtures("clock")
async def test_refused_requests_keep_the_connection_in_order(stage: Stage) -> None:
    client, node = await stage.through(per_client={"max_request_rate": 1})
    assert (await asked(client)).status == 200
    assert (await asked(client, request("/", method="HEAD"), b"HEAD")).status == 429
    assert (await asked(client, post("/", b"hello"))).status == 429
    reply = await asked(client, b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert (reply.status, reply.tokens("Connection")) == (429, {b"keep-alive"})
    await client.send(request("/", "Content-Length: 100000", method="POST") + b"x" * 10)
    reply = await client.answer()
    assert (reply.status, reply.tokens("Connection")) == (429, {b"close"})
    await client.send(b"x" * 50_000)
    client.half_close()
    await client.rest()
    assert (client.ended, client.broken) == ("eof", False)
    assert len(node.requests) == 1


@pytest.mark.usefixtures("clock")
async def test_a_client_is_the_same_on_all_its_connections_and_workers(stage: Stage) -> None:
    board = Board.create(1, 2)
    node = await stage.start_node()
    proxies = [
        await stage.start_proxy([node], board=board, number=number, per_client={"max_request_rate": 6})
        for number in range(2)
    ]
    clients = [await stage.connect(proxies[number % 2]) for number in range(10)]
    got = [(await asked(client)).status for client in clients]
    assert got == [200] * 6 + [429] * 4


@pytest.mark.usefixtures("clock")
async def test_the_client_behind_a_trusted_proxy_counts(stage: Stage) -> None:
    client, _ = await stage.through(per_client={"max_request_rate": 2}, trusted_proxies=TRUSTED)
    for host in ("192.0.2.1", "192.0.2.2"):
        assert await statuses(client, 3, f"X-Forwarded-For: 6.6.6.6, {host}") == [200, 200, 429]
    for host in ("2001:db8::1", "2001:db8::2"):
        got = await statuses(client, 2, f"X-Forwarded-For: {host}")
        assert got == ([200, 200] if host.endswith("1") else [429, 429])
    assert await statuses(client, 1, "X-Forwarded-For: 2001:db8:0:1::2") == [200]


@pytest.mark.usefixtures("clock")
async def test_a_forged_address_does_not_help(stage: Stage) -> None:
    client, _ = await stage.through(per_client={"max_request_rate": 2})
    got = [(await asked(client, request("/", f"X-Forwarded-For: 192.0.2.{n}"))).status for n in range(4)]
    assert got == [200, 200, 429, 429]


async def test_a_limit_of_connections_is_none_of_requests(stage: Stage) -> None:
    client, _ = await stage.through(per_client={"max_connections": 1}, max_connections=1)
    assert await statuses(client, 50) == [200] * 50


async def test_a_client_whose_connection_waits_for_a_node_counts(stage: Stage) -> None:
    node = await stage.start_node(silent)
    proxy = await stage.start_proxy([node], per_client={"max_connections": 1})
    first = await stage.connect(proxy)
    await first.send(request("/"))
    await node.requested()
    refused = await stage.connect(proxy)
    assert (await asked(refused)).status == 429
    refused.close()
    first.reset()
    await stage.over()
    again = await stage.connect(proxy)
    await again.send(request("/again"))
    await node.requested(2)
