"""The access log: one line for each request, and it says how that ended, in which phase, and through whom."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Stage, until
from tests.integration.messages import OK, post, request
from tests.integration.nodes import Exchange, Node, answering, breaking_off, silent
from tests.integration.sessions import GREETING, greeting, hands_off
from tests.integration.test_queue import gated
from tests.integration.wire import Wire, settle
from trackproxy.pool.nodes import AdminState

BIG = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
UPGRADE = (
    b"GET /w HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
)
QUICK = "100ms"
IN_ORDER = [{"priority": 0}, {"priority": 1}]


class Log:
    """The access log of a test."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "access.log"
        self.settings: dict[str, Any] = {"path": str(self.path)}

    async def lines(self, count: int = 1) -> list[dict[str, Any]]:
        """Wait for so many lines; there are no more."""
        await until(lambda: self.path.exists() and self.path.read_bytes().count(b"\n") >= count)
        found = [json.loads(line) for line in self.path.read_bytes().splitlines()]
        assert len(found) == count, found
        return found

    async def line(self) -> dict[str, Any]:
        return (await self.lines())[0]


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


async def web(stage: Stage, log: Log, *nodes: Node | str, **service: Any) -> Wire:
    """A client of a proxy with an access log."""
    return await stage.connect(await stage.start_proxy(list(nodes), access_log=log.settings, **service))


def ending(line: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(line.get(name) for name in ("status", "end", "phase"))


# --- what is told ---


async def test_a_line_tells_who_asked_for_what_and_who_answered(stage: Stage, log: Log) -> None:
    node = await stage.start_node()
    client = await web(stage, log, node, routes=[{"name": "click", "path": "/t/"}])
    fields = b'Host: h\r\nUser-Agent: A"\r\nreferer: http://r/\r\nCookie: secret\r\nAuthorization: secret\r\n'
    await client.send(b"GET /t/1?q=2 HTTP/1.1\r\n" + fields + b"\r\n")
    assert (await client.answer()).status == 200
    line = await log.line()
    for name in ("time", "first_byte_ms", "total_ms", "connect_ms"):
        assert line.pop(name)
    (asked,) = node.requests
    assert line == {
        "client": "127.0.0.1",
        "client_port": client.sock.getsockname()[1],
        "service": "web",
        "method": "GET",
        "target": "/t/1?q=2",
        "protocol": "HTTP/1.1",
        "host": "h",
        "referer": "http://r/",
        "agent": 'A"',
        "status": 200,
        "route": "click",
        "node": "n1",
        "address": node.address,
        "end": "ok",
        "bytes": 2,
        "request_id": (asked.value("X-Request-ID") or b"").decode(),
    }


async def test_requests_over_a_kept_connection_are_told_by_the_id_that_nodes_get(
    stage: Stage, log: Log
) -> None:
    node = await stage.start_node()
    client = await web(stage, log, node)
    for target in ("/1", "/2", "/3"):
        await client.send(request(target))
        await client.answer()
    lines = await log.lines(3)
    assert [line["target"] for line in lines] == ["/1", "/2", "/3"]
    ids = [(asked.value("X-Request-ID") or b"").decode() for asked in node.requests]
    assert [line["request_id"] for line in lines] == ids
    assert "connect_ms" not in lines[1]


async def test_a_trusted_proxy_names_the_client_and_the_id(stage: Stage, log: Log) -> None:
    client = await web(stage, log, await stage.start_node(), trusted_proxies=["127.0.0.1"])
    said = b'X-Forwarded-For: 192.0.2.9\r\nX-Request-ID: mine"\r\n'
    await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n" + said + b"\r\n")
    await client.answer()
    line = await log.line()
    assert (line["client"], line["peer"], line["request_id"]) == ("192.0.2.9", "127.0.0.1", 'mine"')
    assert "client_port" not in line


async def test_a_body_is_counted_both_ways(stage: Stage, log: Log) -> None:
    client = await web(stage, log, await stage.start_node(answering(BIG + b"x" * 1000)))
    await client.send(post(body=b"y" * 500))
    await client.answer()
    line = await log.line()
    assert (line["bytes_in"], line["bytes"], line["method"]) == (500, 1000, "POST")


async def test_the_answer_to_head_has_no_bytes(stage: Stage, log: Log) -> None:
    client = await web(stage, log, await stage.start_node())
    await client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
    await client.answer(b"HEAD")
    assert (await log.line())["bytes"] == 0


async def test_tls_is_told(stage: Stage, log: Log, certificate: str) -> None:
    https = {"certificates": [{"certificate": certificate}]}
    await web(stage, log, await stage.start_node(), https=https)
    client = await stage.connect_securely(name="localhost")
    await client.send(request("/"))
    await client.answer()
    line = await log.line()
    assert (line["tls"], line["sni"]) == ("TLSv1.3", "localhost")
    assert line["cipher"].startswith("TLS_")


async def test_the_query_stays_out_if_that_is_wanted(stage: Stage, log: Log) -> None:
    log.settings["query"] = False
    client = await web(stage, log, await stage.start_node())
    await client.send(b"GET /a?secret HTTP/1.1\r\nHost: a\r\nReferer: http://r/?secret\r\n\r\n")
    await client.answer()
    await client.send(b"GET /a?secret\x01 HTTP/1.1\r\n\r\n")
    await client.answer()
    await log.lines(2)
    assert b"secret" not in log.path.read_bytes()


async def test_a_sample_leaves_out_what_is_usual_and_keeps_what_fails(stage: Stage, log: Log) -> None:
    log.settings["sample"] = 0
    answers = (OK, b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", OK, BIG)
    client = await web(stage, log, await stage.start_node(answering(*answers)))
    for _ in range(3):
        await client.send(request("/"))
        await client.answer()
    await client.send(request("/gone"))
    await client.until(b"1000")
    client.reset()
    assert [ending(line) for line in await log.lines(2)] == [
        (500, "ok", None),
        (200, "client_gone", "answering"),
    ]


# --- stickiness ---


async def test_the_state_of_stickiness_is_told(stage: Stage, log: Log) -> None:
    first, second = await stage.start_node(), await stage.start_node()
    sticky = {"mode": "cookie", "secrets": ["0123456789abcdef"]}
    client = await web(stage, log, first, second, endpoints=IN_ORDER, sticky=sticky)
    await client.send(request("/"))
    cookie = ((await client.answer()).value("Set-Cookie") or b"").partition(b";")[0]
    again = b"GET / HTTP/1.1\r\nHost: a\r\nCookie: " + cookie + b"\r\n\r\n"
    await client.send(again)
    await client.answer()
    await first.close()
    await client.send(again)
    await client.answer()
    lines = await log.lines(3)
    assert [line["sticky"] for line in lines] == ["new", "kept", "moved/failed"]
    assert lines[2]["tried"][-1] == "n2:200"


# --- ends ---

Deed = Callable[[Stage, Wire, list[Node]], Awaitable[None]]


async def reads(stage: Stage, client: Wire, nodes: list[Node]) -> None:
    """The client waits for its answer."""
    await client.answer()


async def leaves(stage: Stage, client: Wire, nodes: list[Node]) -> None:
    """The client goes while the node is at work."""
    await nodes[0].requested()
    client.reset()


async def leaves_while_it_is_answered(stage: Stage, client: Wire, nodes: list[Node]) -> None:
    await client.until(b"1000")
    client.reset()


async def is_cut(stage: Stage, client: Wire, nodes: list[Node]) -> None:
    await client.rest()


async def leaves_while_it_sends(stage: Stage, client: Wire, nodes: list[Node]) -> None:
    await nodes[0].connected()
    client.reset()


async def is_shut_down(stage: Stage, client: Wire, nodes: list[Node]) -> None:
    await nodes[0].requested()
    stage.workers[-1].end()
    await client.rest()


async def is_taken_out(stage: Stage, client: Wire, nodes: list[Node]) -> None:
    await client.until(b"1000")
    group = stage.web.groups[0]
    group.end(group.endpoints[0])
    await client.rest()


async def says_nonsense(exchange: Exchange) -> None:
    await exchange.read_and_send(b"nonsense\r\n\r\n")


async def bad_chunks(exchange: Exchange) -> None:
    await exchange.read_and_send(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n", b"zz\r\n"
    )


GET = request("/")
SLOW_HEAD: dict[str, Any] = {"timeouts": {"response_head": QUICK}, "retry": {"tries": 1}}
UNFINISHED = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nab"

ENDS: dict[str, tuple[bytes, Any, Deed, dict[str, Any], tuple[Any, ...]]] = {
    "ok": (GET, answering(), reads, {}, (200, "ok", None)),
    "ok, in pieces": (GET, answering(BIG + b"x" * 1000), reads, {}, (200, "ok", None)),
    "ok, an error of the node": (
        GET,
        answering(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"),
        reads,
        {},
        (503, "ok", None),
    ),
    "client gone, waiting": (GET, silent, leaves, {}, (None, "client_gone", "waiting")),
    "client gone, answering": (
        GET,
        answering(BIG),
        leaves_while_it_is_answered,
        {},
        (200, "client_gone", "answering"),
    ),
    "client gone, sending": (UNFINISHED, silent, leaves_while_it_sends, {}, (None, "client_gone", "sending")),
    "client slow, head": (
        b"GET / HTTP/1.1\r\n",
        silent,
        reads,
        {"timeouts": {"head": QUICK}},
        (408, "client_slow", "sending"),
    ),
    "client slow, body": (
        UNFINISHED,
        silent,
        reads,
        {"timeouts": {"body": QUICK}},
        (408, "client_slow", "sending"),
    ),
    "bad request": (b"GET /\x01 HTTP/1.1\r\n\r\n", silent, reads, {}, (400, "bad_request", "sending")),
    "bad version": (b"GET / HTTP/3.0\r\n\r\n", silent, reads, {}, (505, "bad_request", "sending")),
    "too large": (post(body=b"123456789"), silent, reads, {"max_body": 3}, (413, "bad_request", "sending")),
    "node lost, waiting": (post(body=b"1"), breaking_off(), reads, {}, (502, "node_lost", "waiting")),
    "node lost, answering": (GET, breaking_off(BIG), is_cut, {}, (200, "node_lost", "answering")),
    "node silent, waiting": (GET, silent, reads, SLOW_HEAD, (504, "node_silent", "waiting")),
    "node silent, answering": (
        GET,
        answering(BIG),
        is_cut,
        {"timeouts": {"response": QUICK}},
        (200, "node_silent", "answering"),
    ),
    "node malformed, waiting": (GET, says_nonsense, reads, {}, (502, "node_malformed", "waiting")),
    "node malformed, answering": (
        GET,
        bad_chunks,
        is_cut,
        {},
        (200, "node_malformed", "answering"),
    ),
    "taken out, answering": (GET, answering(BIG), is_taken_out, {}, (200, "taken_out", "answering")),
    "shutdown": (GET, silent, is_shut_down, {}, (None, "shutdown", "waiting")),
    "limited": (
        GET + GET,
        answering(),
        reads,
        {"per_client": {"max_request_rate": 1}},
        (429, "limited", None),
    ),
    "denied": (
        GET,
        silent,
        reads,
        {"routes": [{"name": "r", "clients": ["10.0.0.0/8"]}]},
        (403, "denied", None),
    ),
}


@pytest.mark.parametrize("name", ENDS)
async def test_a_line_says_who_ended_a_request_and_in_which_phase(stage: Stage, log: Log, name: str) -> None:
    sent, script, deed, service, expected = ENDS[name]
    node = await stage.start_node(script)
    client = await web(stage, log, node, **service)
    await client.send(sent)
    await deed(stage, client, [node])
    lines = await log.lines(2 if name == "limited" else 1)
    assert ending(lines[-1]) == expected


PASSWORD = b"//ann:secret@h/a@b"
WITH_PASSWORD = {
    "of a target": b"GET http:%b HTTP/1.1\r\nHost: h\r\n\r\n" % PASSWORD,
    "of a referer": b"GET / HTTP/1.1\r\nHost: h\r\nReferer: http:%b\r\n\r\n" % PASSWORD,
    "of a referer beside an agent": b"GET / HTTP/1.1\r\nHost: h\r\nReferer: http:%b\r\nUser-Agent: x\r\n\r\n"
    % PASSWORD,
}


@pytest.mark.parametrize("form", ["json", "combined"])
@pytest.mark.parametrize("name", WITH_PASSWORD)
async def test_passwords_are_not_logged(stage: Stage, log: Log, name: str, form: str) -> None:
    log.settings["format"] = form
    client = await web(stage, log, await stage.start_node())
    await client.send(WITH_PASSWORD[name])
    await client.answer()
    await until(lambda: log.path.exists() and log.path.read_bytes().endswith(b"\n"))
    line = log.path.read_bytes()
    assert b"secret" not in line
    assert b"http://h/a@b" in line


async def test_a_line_tells_all_nodes_that_were_tried(stage: Stage, log: Log) -> None:
    good, bad = await stage.start_node(), await stage.start_node(breaking_off())
    order = [{"priority": number} for number in range(3)]
    client = await web(stage, log, stage.refusing(), bad, good, endpoints=order)
    await client.send(GET)
    await client.answer()
    line = await log.line()
    assert line["tried"] == ["n1:refused", "n2:lost", "n3:200"]
    assert (line["retries"], line["node"], line["status"], line["end"]) == (2, "n3", 200, "ok")


async def test_an_answer_that_another_node_may_better_is_a_try(stage: Stage, log: Log) -> None:
    bad = await stage.start_node(answering(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"))
    client = await web(stage, log, bad, await stage.start_node(), endpoints=IN_ORDER)
    await client.send(GET)
    await client.answer()
    assert (await log.line())["tried"] == ["n1:503", "n2:200"]


async def test_nodes_that_take_no_connection_end_a_request(stage: Stage, log: Log) -> None:
    client = await web(stage, log, stage.refusing())
    await client.send(GET)
    await client.answer()
    line = await log.line()
    assert ending(line) == (502, "node_refused", "connecting")
    assert line["tried"] == ["n1:refused"]


async def test_a_client_may_leave_while_its_node_is_connected_to(stage: Stage, log: Log) -> None:
    client = await web(stage, log, stage.deaf())
    await client.send(GET)
    await settle()
    client.reset()
    assert ending(await log.line()) == (None, "client_gone", "connecting")


async def test_where_no_node_is_left_a_line_says_so(stage: Stage, log: Log) -> None:
    client = await web(stage, log, await stage.start_node(), panic_threshold=0)
    group = stage.web.groups[0]
    group.balancer.set_state("n1", AdminState.DISABLED)
    await client.send(GET)
    await client.answer()
    assert ending(await log.line()) == (503, "no_node", None)


@pytest.mark.parametrize(
    ("queue", "expected"),
    [
        ({"size": 0}, (503, "queue_full", "queued")),
        ({"timeout": QUICK}, (503, "queue_timeout", "queued")),
    ],
    ids=["full", "timeout"],
)
async def test_who_finds_no_room_is_told(
    stage: Stage, log: Log, queue: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    node = await stage.start_node(silent)
    first = await web(stage, log, node, endpoints=[{"max_connections": 1}], queue=queue)
    await first.send(GET)
    await node.requested()
    host, port = first.sock.getpeername()
    second = await stage.connect(f"{host}:{port}")
    await second.send(GET)
    await second.answer()
    line = await log.line()
    assert ending(line) == expected
    assert line.get("queue_ms", 0) >= (100 if "timeout" in queue else 0)


async def test_the_time_in_the_queue_is_told(stage: Stage, log: Log) -> None:
    gate = asyncio.Semaphore(0)
    node = await stage.start_node(gated(gate))
    first = await web(stage, log, node, endpoints=[{"max_connections": 1}])
    host, port = first.sock.getpeername()
    second = await stage.connect(f"{host}:{port}")
    await first.send(GET)
    await node.requested()
    await second.send(GET)
    await until(lambda: len(stage.web.groups[0].waiting) == 1)
    gate.release()
    gate.release()
    await second.answer()
    lines = await log.lines(2)
    assert "queue_ms" not in lines[0]
    assert 0 < lines[1]["queue_ms"] <= lines[1]["total_ms"]


async def test_a_connection_that_is_one_too_many_has_a_line(stage: Stage, log: Log) -> None:
    await web(stage, log, await stage.start_node(), max_connections=1)
    client = await stage.connect(str(stage.web.settings.listen[0]))
    await client.rest()
    line = await log.line()
    assert ending(line) == (503, "limited", None)
    assert "method" not in line


async def test_what_is_no_request_is_shown_as_it_came(stage: Stage, log: Log) -> None:
    client = await web(stage, log, await stage.start_node())
    await client.send(b'GET /"\xff\x1b[31m HTTP/1.1\r\nHost: a\r\n\r\n')
    await client.answer()
    assert (await log.line())["request"] == r'GET /"\xff\x1b[31m HTTP/1.1'


# --- tunnels ---


async def tunnel(stage: Stage, log: Log, **service: Any) -> tuple[Wire, Wire]:
    """Both ends of a tunnel through which 3 bytes went up and 5 down."""
    node = await stage.start_node(answering(UPGRADE[1] + b"12345"))
    client = await web(stage, log, node, **service)
    await client.send(UPGRADE[0])
    await client.until(b"12345")
    await client.send(b"abc")
    wire = await node.connected()
    await wire.saw(b"abc")
    return client, wire


async def test_a_tunnel_that_its_client_closes_is_whole(stage: Stage, log: Log) -> None:
    client, wire = await tunnel(stage, log)
    client.close()
    await wire.rest()
    wire.close()
    line = await log.line()
    assert ending(line) == (101, "ok", None)
    assert (line["bytes_in"], line["total_ms"] > line["first_byte_ms"] > 0) == (3, True)


@pytest.mark.parametrize("end", ["client_gone", "node_lost", "idle", "shutdown"])
async def test_a_tunnel_tells_who_has_broken_it(stage: Stage, log: Log, end: str) -> None:
    client, wire = await tunnel(stage, log, timeouts={"tunnel": QUICK} if end == "idle" else {})
    match end:
        case "client_gone":
            client.reset()
        case "node_lost":
            wire.reset()
        case "shutdown":
            stage.workers[-1].end()
    assert ending(await log.line()) == (101, end, "relaying")


# --- sessions ---


async def mail(stage: Stage, log: Log, *nodes: Node | str, **service: Any) -> Wire:
    service = {"name": "mail", "protocol": "smtp", "access_log": log.settings, **service}
    return await stage.connect(await stage.start_proxy(list(nodes), **service))


async def test_a_session_has_a_line_at_its_end(stage: Stage, log: Log) -> None:
    node = await stage.start_node(greeting())
    client = await mail(stage, log, node)
    await client.exactly(len(GREETING))
    await client.send(b"QUIT\r\n")
    wire = await node.connected()
    await wire.saw(b"QUIT")
    await wire.send(b"221 bye\r\n")
    wire.close()
    await client.rest()
    port = client.sock.getsockname()[1]
    client.close()
    line = await log.line()
    for name in ("time", "connect_ms", "greeting_ms", "total_ms"):
        assert line.pop(name)
    assert line == {
        "client": "127.0.0.1",
        "client_port": port,
        "service": "mail",
        "node": "n1",
        "address": node.address,
        "end": "ok",
        "bytes": len(GREETING) + 9,
        "bytes_in": 6,
    }


async def test_a_session_tells_all_nodes_that_were_tried(stage: Stage, log: Log) -> None:
    nodes: list[Node | str] = [
        stage.refusing(),
        await stage.start_node(greeting(b"421 no\r\n")),
        await stage.start_node(greeting()),
    ]
    client = await mail(stage, log, *nodes, endpoints=[{"priority": number} for number in range(3)])
    await client.exactly(len(GREETING))
    client.reset()
    line = await log.line()
    assert line["tried"] == ["n1:refused", "n2:error", "n3:joined"]
    assert (line["retries"], line["node"]) == (2, "n3")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("refused", ("node_refused", "connecting")),
        ("closing", ("node_lost", "waiting")),
        ("silent", ("node_silent", "waiting")),
        ("client before", ("client_gone", "waiting")),
        ("client", ("client_gone", "relaying")),
        ("node", ("node_lost", "relaying")),
        ("idle", ("idle", "relaying")),
        ("shutdown", ("shutdown", "relaying")),
        ("limited", ("limited", None)),
    ],
)
async def test_a_line_says_who_ended_a_session(
    stage: Stage, log: Log, name: str, expected: tuple[str, str | None]
) -> None:
    async def closing(exchange: Exchange) -> None:
        exchange.wire.close()

    script = {"closing": closing, "silent": hands_off, "client before": hands_off}.get(name, greeting())
    node = stage.refusing() if name == "refused" else await stage.start_node(script)
    service: dict[str, Any] = {"greeting_timeout": QUICK} if name == "silent" else {}
    service |= {"timeouts": {"idle": QUICK}} if name == "idle" else {}
    service |= {"max_connections": 1} if name == "limited" else {}
    client = await mail(stage, log, node, **service)
    if name == "client before":
        assert isinstance(node, Node)
        await node.connected()
        await settle()
        client.reset()
    elif name not in ("refused", "closing", "silent"):
        assert isinstance(node, Node)
        await client.exactly(len(GREETING))
        match name:
            case "client":
                client.reset()
            case "node":
                (await node.connected()).reset()
            case "shutdown":
                stage.workers[-1].end()
            case "limited":
                host, port = client.sock.getpeername()
                other = await stage.connect(f"{host}:{port}")
                await other.rest()
    line = await log.line()
    assert (line["end"], line.get("phase")) == expected
