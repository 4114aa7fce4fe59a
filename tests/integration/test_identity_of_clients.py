"""Who a client is: what it says of itself counts only through a trusted proxy, and then everywhere."""

from __future__ import annotations

import asyncio
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Stage, until
from tests.integration.messages import Message, answer, chunked, request
from tests.integration.nodes import Exchange, Node
from tests.integration.wire import DEADLINE_S, Wire
from trackproxy.board import Traffic
from trackproxy.proxy_protocol import LOCAL_V2, header_v1, header_v2

CLIENT, SITE = ("192.0.2.7", 4711), ("192.0.2.1", 8080)
CLIENT6, SITE6 = ("2001:db8::7", 4711), ("2001:db8::1", 443)
TRUSTED = ["127.0.0.0/8", "10.0.0.0/8"]
HEADED: dict[str, Any] = {"accept_proxy_protocol": True, "trusted_proxies": TRUSTED}
CLAIMS = [
    "X-Forwarded-For: 192.0.2.99",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Port: 1",
    "Forwarded: for=x",
]


async def seen_by_node(stage: Stage, *fields: str, **service: Any) -> Message:
    """What a node gets of a request with these fields."""
    client, node = await stage.through(**service)
    await client.send(request("/", *fields))
    assert (await client.answer()).status == 200
    return node.requests[0]


def naming(name: str) -> Any:
    """A script that answers with its own name."""

    async def script(exchange: Exchange) -> None:
        while True:
            await exchange.read_and_send(answer(body=name.encode()))

    return script


async def named_nodes(stage: Stage, count: int = 4) -> list[Node]:
    return [await stage.start_node(naming(str(number))) for number in range(count)]


# --- X-Forwarded-For ---


async def test_what_a_client_says_of_itself_is_replaced(stage: Stage) -> None:
    seen = await seen_by_node(stage, *CLAIMS, "X-Request-ID: mine", "X_Forwarded_For: 192.0.2.98")
    assert seen.value("X-Forwarded-For") == b"127.0.0.1"
    assert seen.value("X-Forwarded-Proto") == b"http"
    assert seen.value("X-Forwarded-Port") != b"1"
    assert not seen.values("Forwarded")
    assert not seen.values("X_Forwarded_For")
    assert seen.value("X-Request-ID") != b"mine"


@pytest.mark.parametrize(
    ("told", "passed_on"),
    [
        ("192.0.2.7", "192.0.2.7, 127.0.0.1"),
        ("6.6.6.6, 192.0.2.7", "192.0.2.7, 127.0.0.1"),
        ("6.6.6.6, 192.0.2.7, 10.1.1.1", "192.0.2.7, 10.1.1.1, 127.0.0.1"),
        ("10.2.2.2, 10.1.1.1", "10.2.2.2, 10.1.1.1, 127.0.0.1"),
        ("192.0.2.7, nonsense", "127.0.0.1"),
        ("192.0.2.7, nonsense, 10.1.1.1", "10.1.1.1, 127.0.0.1"),
        ("", "127.0.0.1"),
        (" 192.0.2.7:5050 ", "192.0.2.7, 127.0.0.1"),
        ("[2001:DB8::7]:5050", "2001:db8::7, 127.0.0.1"),
        ("::ffff:192.0.2.7", "192.0.2.7, 127.0.0.1"),
        ("1.1.1.1, " * 40 + "192.0.2.7", "192.0.2.7, 127.0.0.1"),
    ],
)
async def test_a_trusted_proxy_is_believed_up_to_the_first_hop_that_is_not(
    stage: Stage, told: str, passed_on: str
) -> None:
    seen = await seen_by_node(stage, f"X-Forwarded-For: {told}", trusted_proxies=TRUSTED)
    assert seen.value("X-Forwarded-For") == passed_on.encode()


async def test_several_lines_are_one_list(stage: Stage) -> None:
    lines = ("X-Forwarded-For: 6.6.6.6", "X-Forwarded-For: 192.0.2.7, 10.1.1.1")
    seen = await seen_by_node(stage, *lines, trusted_proxies=TRUSTED)
    assert seen.value("X-Forwarded-For") == b"192.0.2.7, 10.1.1.1, 127.0.0.1"


async def test_each_request_of_a_trusted_proxy_is_another_clients(stage: Stage) -> None:
    client, node = await stage.through(trusted_proxies=TRUSTED)
    for host in ("192.0.2.7", "192.0.2.8", ""):
        await client.send(request("/", *([f"X-Forwarded-For: {host}"] if host else [])))
        assert (await client.answer()).status == 200
    told = [seen.value("X-Forwarded-For") for seen in node.requests]
    assert told == [b"192.0.2.7, 127.0.0.1", b"192.0.2.8, 127.0.0.1", b"127.0.0.1"]


async def test_a_forged_address_changes_nothing_in_where_a_client_goes(stage: Stage) -> None:
    client = await stage.connect(await stage.start_proxy([*await named_nodes(stage)], balance="source_hash"))
    bodies = set()
    for number in range(20):
        await client.send(request("/", f"X-Forwarded-For: 192.0.2.{number}"))
        bodies.add((await client.answer()).body)
    assert len(bodies) == 1


async def test_clients_behind_a_trusted_proxy_are_spread_and_stay(stage: Stage) -> None:
    proxy = await stage.start_proxy(
        [*await named_nodes(stage)], balance="source_hash", trusted_proxies=TRUSTED
    )
    rounds = []
    for _ in range(2):
        client = await stage.connect(proxy)
        bodies = []
        for number in range(100):
            await client.send(request("/", f"X-Forwarded-For: 6.6.6.6, 192.0.2.{number}"))
            bodies.append((await client.answer()).body)
        rounds.append(bodies)
    assert rounds[0] == rounds[1]
    assert len(set(rounds[0])) == 4


# --- access lists ---

ADMIN = [{"name": "admin", "path": "/admin/", "clients": ["192.0.2.0/24"]}]


@pytest.mark.parametrize(
    ("trusted", "told", "status"),
    [
        ([], "192.0.2.7", 403),
        (TRUSTED, "192.0.2.7", 200),
        (TRUSTED, "198.51.100.7", 403),
        (TRUSTED, "192.0.2.7, 198.51.100.7", 403),
        (TRUSTED, "192.0.2.7, nonsense", 403),
        (TRUSTED, "::ffff:192.0.2.7", 200),
        (TRUSTED, "198.51.100.7, 192.0.2.7, 10.0.0.1", 200),
    ],
)
async def test_access_lists_look_at_the_client_behind_trusted_proxies(
    stage: Stage, trusted: list[str], told: str, status: int
) -> None:
    client, node = await stage.through(routes=ADMIN, trusted_proxies=trusted)
    await client.send(request("/admin/x", f"X-Forwarded-For: {told}"))
    assert (await client.answer()).status == status
    assert len(node.requests) == (status == 200)
    await client.send(request("/"))
    assert (await client.answer()).status == 200  # the connection goes on


async def test_a_client_that_was_let_in_lets_nobody_else_in(stage: Stage) -> None:
    client, _ = await stage.through(routes=ADMIN, trusted_proxies=TRUSTED)
    statuses = []
    for line in (["X-Forwarded-For: 192.0.2.7"], [], ["X-Forwarded-For: 198.51.100.1"]):
        await client.send(request("/admin/x", *line))
        statuses.append((await client.answer()).status)
    assert statuses == [200, 403, 403]


# --- other kinds of peers ---


async def test_ipv4_clients_of_an_ipv6_listener_are_ipv4_clients(stage: Stage) -> None:
    node = await stage.start_node()
    routes = [{"name": "all", "clients": ["127.0.0.0/8"]}]
    await stage.start_proxy([node], routes=routes)
    listener = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    serving = await stage.web.listen(listener)
    port = listener.getsockname()[1]
    for target in ("/plain", "/full"):
        client = await stage.connect(f"127.0.0.1:{port}")
        await client.send(
            request(target).replace(b"HTTP/1.1", b"HTTP/1.0" if target == "/full" else b"HTTP/1.1")
        )
        assert (await client.answer()).status == 200
    serving.close()
    listener.close()
    assert [seen.value("X-Forwarded-For") for seen in node.requests] == [b"127.0.0.1"] * 2


async def test_clients_of_a_unix_socket_have_no_address_and_are_trusted_with_nothing(
    stage: Stage, tmp_path: Path
) -> None:
    node = await stage.start_node()
    await stage.start_proxy([node], routes=ADMIN, balance="source_hash", **HEADED)
    path = str(tmp_path / "web")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        serving = await stage.web.listen(listener)
        async with asyncio.timeout(DEADLINE_S):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(request("/", *CLAIMS) + request("/admin/x", *CLAIMS) + b"GET / HTTP/1.0\r\n\r\n")
            received = await reader.read()
            writer.close()
            await writer.wait_closed()
        serving.close()
    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"200", b"403", b"200"]
    assert node.requests[0].value("X-Forwarded-For") == b"unknown"
    assert node.requests[1].value("Host") == b"localhost"
    await stage.over()


# --- the PROXY protocol ---


@pytest.fixture(params=["http", "https"])
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def start(stage: Stage, certificate: str, **service: Any) -> tuple[Node, str]:
    """A node behind both listeners."""
    node = await stage.start_node()
    https = {"certificates": [{"certificate": certificate}]}
    return node, await stage.start_proxy([node], https=https, **service)


async def arrive(stage: Stage, plain: str, scheme: str, header: bytes, how: str = "apart") -> Wire:
    """A client that a proxy announces with HEADER."""
    if scheme == "http":
        client = await stage.connect(plain)
        if how == "in pieces":
            await client.drip(header)
        elif how == "apart":
            await client.send(header)
        else:
            await client.send(header + request("/first"))
            assert (await client.answer()).status == 200
        return client
    secure = await stage.connect_securely(shaken=False)
    if how == "in pieces":
        for byte in header + secure.hello():
            await Wire.send(secure, bytes([byte]))
            await asyncio.sleep(0)
    elif how == "apart":
        await Wire.send(secure, header)
        await asyncio.sleep(0)
        await Wire.send(secure, secure.hello())
    else:
        await Wire.send(secure, header + secure.hello())
    await until(lambda: secure.shaken)
    return secure


@pytest.mark.parametrize("how", ["at once", "apart", "in pieces"])
@pytest.mark.parametrize("made", [header_v1, header_v2])
async def test_a_proxy_header_says_who_the_client_is(
    stage: Stage, certificate: str, scheme: str, made: Any, how: str
) -> None:
    node, plain = await start(stage, certificate, **HEADED)
    client = await arrive(stage, plain, scheme, made(CLIENT, SITE), how)
    await client.send(request("/", *CLAIMS) + b"GET / HTTP/1.0\r\n\r\n")
    assert [(await client.answer()).status for _ in range(2)] == [200, 200]
    told, old = node.requests[-2:]
    assert told.value("X-Forwarded-For") == b"192.0.2.7"
    assert told.value("X-Forwarded-Port") == b"8080"
    assert told.value("X-Forwarded-Proto") == scheme.encode()
    assert not told.values("Forwarded")
    assert old.value("Host") == b"192.0.2.1:8080"


async def test_a_header_of_ipv6(stage: Stage, certificate: str, scheme: str) -> None:
    node, plain = await start(stage, certificate, **HEADED)
    client = await arrive(stage, plain, scheme, header_v2(CLIENT6, SITE6))
    await client.send(b"GET / HTTP/1.0\r\n\r\n")
    assert (await client.answer()).status == 200
    assert node.requests[0].value("X-Forwarded-For") == b"2001:db8::7"
    host = b"[2001:db8::1]:443" if scheme == "http" else b"[2001:db8::1]"
    assert node.requests[0].value("Host") == host


@pytest.mark.parametrize("header", [LOCAL_V2, b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN a b c d\r\n"])
async def test_a_proxy_that_speaks_for_itself_is_a_trusted_peer(
    stage: Stage, certificate: str, scheme: str, header: bytes
) -> None:
    node, plain = await start(stage, certificate, **HEADED)
    client = await arrive(stage, plain, scheme, header)
    await client.send(request("/", "X-Forwarded-For: 192.0.2.9"))
    assert (await client.answer()).status == 200
    assert node.requests[0].value("X-Forwarded-For") == b"192.0.2.9, 127.0.0.1"


async def test_a_header_may_name_another_trusted_proxy(stage: Stage, certificate: str, scheme: str) -> None:
    node, plain = await start(stage, certificate, **HEADED)
    client = await arrive(stage, plain, scheme, header_v1(("10.0.0.5", 1), SITE))
    await client.send(request("/", "X-Forwarded-For: 192.0.2.9"))
    assert (await client.answer()).status == 200
    assert node.requests[0].value("X-Forwarded-For") == b"192.0.2.9, 10.0.0.5"


@pytest.mark.parametrize(
    "data",
    [
        request("/"),
        b"PROXY TCP4 1.2.3.4\r\n",
        b"\r\n\r\n\x00\r\nQUIT\n\xff",
        b"\x16\x03\x01",
        b"PROXY " * 100,
    ],
    ids=["HTTP", "short", "bad version", "TLS", "long"],
)
async def test_a_trusted_proxy_without_a_valid_header_is_turned_away(
    stage: Stage, certificate: str, scheme: str, data: bytes
) -> None:
    node, plain = await start(stage, certificate, **HEADED)
    client = await stage.connect(plain if scheme == "http" else stage.secure)
    await client.send(data)
    assert await client.rest() == b""
    await stage.over()
    assert not node.connections
    assert stage.web.routes[-1].cells[Traffic.REFUSED_PROXY_HEADER] == 1


async def test_a_header_has_to_come_in_time(stage: Stage, certificate: str, scheme: str) -> None:
    node, plain = await start(stage, certificate, timeouts={"proxy_header": "100ms"}, **HEADED)
    mute, slow = [await stage.connect(plain if scheme == "http" else stage.secure) for _ in range(2)]
    await slow.send(b"PROXY TCP4 ")
    for client in (mute, slow):
        assert await client.rest() == b""
    await stage.over()
    assert not node.connections


@pytest.mark.parametrize("end", ["half_close", "reset", "close"])
async def test_a_header_that_breaks_off_leaves_nothing_behind(
    stage: Stage, certificate: str, scheme: str, end: str
) -> None:
    _, plain = await start(stage, certificate, **HEADED)
    for data in (b"", b"PROXY TCP4 "):
        client = await stage.connect(plain if scheme == "http" else stage.secure)
        await client.send(data)
        await until(lambda: stage.web.connections == 1)
        getattr(client, end)()
        await stage.over()
        client.close()


async def test_a_header_of_somebody_else_is_a_bad_request(
    stage: Stage, certificate: str, scheme: str
) -> None:
    headed = {"accept_proxy_protocol": True, "trusted_proxies": ["192.0.2.0/24"]}
    node, plain = await start(stage, certificate, **headed)
    client = await stage.connect(plain if scheme == "http" else stage.secure)
    await client.send(header_v1(CLIENT, SITE) + request("/"))
    received = await client.rest()
    assert received.startswith(b"HTTP/1.1 400 ") if scheme == "http" else received == b""
    assert not node.connections
    usual = await (stage.connect(plain) if scheme == "http" else stage.connect_securely())
    await usual.send(request("/"))
    assert (await usual.answer()).status == 200
    assert node.requests[0].value("X-Forwarded-For") == b"127.0.0.1"


async def test_hashing_and_access_lists_look_at_the_client_of_the_header(stage: Stage) -> None:
    proxy = await stage.start_proxy(
        [*await named_nodes(stage)], balance="source_hash", routes=ADMIN, **HEADED
    )
    bodies = set()
    for number in range(20):
        client = await stage.connect(proxy)
        await client.send(header_v2((f"192.0.2.{number}", 1), SITE) + request("/"))
        bodies.add((await client.answer()).body)
    assert len(bodies) == 4
    for host, status in (("192.0.2.7", 200), ("198.51.100.7", 403)):
        client = await stage.connect(proxy)
        await client.send(header_v2((host, 1), SITE) + request("/admin/x", "X-Forwarded-For: 192.0.2.7"))
        assert (await client.answer()).status == status


async def test_a_worker_ends_though_headers_never_come(stage: Stage, certificate: str, scheme: str) -> None:
    _, plain = await start(stage, certificate, **HEADED)
    client = await stage.connect(plain if scheme == "http" else stage.secure)
    await until(lambda: stage.web.connections == 1)
    worker = stage.workers[0]
    worker.retire(0.1)
    async with asyncio.timeout(DEADLINE_S):
        await worker.over.wait()
    await client.rest()


async def test_a_client_whose_header_comes_during_a_drain_is_served(
    stage: Stage, certificate: str, scheme: str
) -> None:
    _, plain = await start(stage, certificate, timeouts={"linger": "100ms"}, **HEADED)
    waiting = await stage.connect(plain) if scheme == "http" else await stage.connect_securely(shaken=False)
    await until(lambda: stage.web.connections == 1)
    stage.workers[0].retire(DEADLINE_S)
    await Wire.send(waiting, header_v1(CLIENT, SITE))
    if scheme == "https":
        await waiting.shake()  # type: ignore[attr-defined]
    await waiting.send(request("/"))
    reply = await waiting.answer()
    assert (reply.status, reply.tokens("Connection")) == (200, {b"close"})
    waiting.close()
    async with asyncio.timeout(DEADLINE_S):
        await stage.workers[0].over.wait()


# --- agents ---

CURL = "User-Agent: curl/8.0"
FORGED = ("X-Trackproxy-Agent: forged", "x_trackproxy_agent: forged")


@pytest.mark.parametrize("trusted", [[], TRUSTED])
async def test_nodes_are_told_of_agents_only_if_that_is_wanted(stage: Stage, trusted: list[str]) -> None:
    seen = await seen_by_node(stage, CURL, *FORGED, trusted_proxies=trusted)
    assert not re.search(rb"forged|trackproxy-agent", fields_in(seen), re.IGNORECASE)
    seen = await seen_by_node(stage, CURL, *FORGED, trusted_proxies=trusted, agents={"tag": True})
    assert seen.value("X-Trackproxy-Agent") == b"tool"
    assert b"forged" not in fields_in(seen)
    seen = await seen_by_node(
        stage, "User-Agent: Mozilla/5.0", *FORGED, trusted_proxies=trusted, agents={"tag": True}
    )
    assert not re.search(rb"forged|trackproxy-agent", fields_in(seen), re.IGNORECASE)


def fields_in(message: Message) -> bytes:
    return b"\n".join(b": ".join(field) for field in [*message.fields, *message.trailers])


async def test_a_forged_tag_is_no_trailer(stage: Stage) -> None:
    client, node = await stage.through(agents={"tag": True})
    await client.send(
        request("/", "Transfer-Encoding: chunked", method="POST")
        + chunked(b"x", trailers=b"X-Trackproxy-Agent: forged\r\n")
    )
    assert (await client.answer()).status == 400
    assert b"forged" not in node.received


async def test_own_rules_come_before_those_that_are_built_in(stage: Stage) -> None:
    rules = [{"tag": "ours", "user_agent": "CURL/8"}, {"tag": "wget", "user_agent": "wget"}]
    agents = {"tag": True, "rules": rules}
    assert (await seen_by_node(stage, CURL, agents=agents)).value("X-Trackproxy-Agent") == b"ours"
    seen = await seen_by_node(stage, "User-Agent: curl/7", agents=agents)
    assert seen.value("X-Trackproxy-Agent") == b"tool"


async def test_a_tag_stays_with_its_request(stage: Stage) -> None:
    client, node = await stage.through(agents={"tag": True})
    for line in (CURL, "User-Agent: Mozilla/5.0", CURL):
        await client.send(request("/", line))
        assert (await client.answer()).status == 200
    tags = [seen.value("X-Trackproxy-Agent") for seen in node.requests]
    assert tags == [b"tool", None, b"tool"]


async def test_who_asks_too_fast_is_tagged_and_served(stage: Stage) -> None:
    rules = [{"tag": "fast", "rate": 5}]
    client, node = await stage.through(trusted_proxies=TRUSTED, agents={"tag": True, "rules": rules})
    for host, count in (("192.0.2.7", 20), ("192.0.2.8", 3)):
        for _ in range(count):
            await client.send(request("/", f"X-Forwarded-For: {host}"))
            assert (await client.answer()).status == 200
    tags = [seen.value("X-Trackproxy-Agent") for seen in node.requests]
    assert tags[:5] == [None] * 5
    assert tags[10:20] == [b"fast"] * 10
    assert tags[20:] == [None] * 3
