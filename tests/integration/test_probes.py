"""HTTP and TCP probes: what they send, what passes, and how little they leave behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast

import aiohttp
import pytest

from tests.integration.conftest import Stage
from tests.integration.messages import OK, answer, chunked
from tests.integration.nodes import Exchange, answering, breaking_off, silent
from tests.integration.probing import (
    OK_HEAD,
    TIMEOUT_S,
    both_types,
    closed,
    look,
    prober,
)
from trackproxy.health.probes import MOST_BYTES, TEXT_BYTES, make_prober, open_session
from trackproxy.http_sections import HttpService
from trackproxy.route_sections import Probe
from trackproxy.settings import EndpointConfig
from trackproxy.units import Address


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """The client of all probes."""
    async with open_session() as session:
        yield session


# --- healthy answers ---


async def test_nothing_probes_an_endpoint_whose_probe_is_off(session: aiohttp.ClientSession) -> None:
    config = EndpointConfig("n1", Address("127.0.0.1", 1), 1, 0, 0, 1.0)
    service = HttpService(protocol="http", listen=[Address("", 80)], probe=Probe(type="off"))
    assert make_prober(service, config, session) is None


@pytest.mark.parametrize(
    "text",
    [
        OK,
        answer(status="404 Not Found"),
        b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
        OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel",
        OK_HEAD + b"Content-Length: 1000000000000\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" + OK,
        answer("Set-Cookie: =;;\xff", "Content-Type: ;;=", "Content-Encoding: gzip", "Link: <"),
    ],
    ids=["plain", "404", "http/1.0", "unfinished chunks", "long body", "interim", "odd fields"],
)
async def test_an_answer_with_an_expected_status_passes(
    stage: Stage, session: aiohttp.ClientSession, text: bytes
) -> None:
    result = await look(stage, answering(text), session)
    assert (result.passed, result.local) == (True, False)
    assert result.reason.startswith(("200 in ", "404 in "))


@pytest.mark.parametrize(
    ("status", "expect", "passed"),
    [
        ("500 Oops", ["200-499"], False),
        ("204 No", ["204"], True),
        ("200 OK", ["204", "301-302"], False),
        ("302 Found", ["204", "301-302"], True),
    ],
)
async def test_only_expected_statuses_pass(
    stage: Stage, session: aiohttp.ClientSession, status: str, expect: list[str], passed: bool
) -> None:
    result = await look(stage, answering(answer(status=status)), session, expect=expect)
    assert result.passed is passed
    if not passed:
        assert result.reason == f"status {status[:3]}, expected {', '.join(expect)}"


async def test_a_connection_is_enough_for_a_tcp_probe(stage: Stage, session: aiohttp.ClientSession) -> None:
    result = await look(stage, silent, session, type="tcp")
    assert result.passed
    assert result.reason.startswith("connected in ")


async def test_a_redirect_is_not_followed(stage: Stage, session: aiohttp.ClientSession) -> None:
    elsewhere = await stage.start_node()
    redirect = answer(f"Location: http://{elsewhere.address}/", status="302 Found")
    assert (await look(stage, answering(redirect), session)).reason.startswith("302 in ")
    assert not elsewhere.connections


@both_types
async def test_each_probe_makes_a_connection_of_its_own_and_closes_it(
    stage: Stage, session: aiohttp.ClientSession, kind: str
) -> None:
    node = await stage.start_node()
    probing = prober(node, session, type=kind)
    results = [await probing.probe() for _ in range(20)]
    assert all(result.passed for result in results)
    await closed(node, 20)


# --- the request ---


@pytest.mark.parametrize("path", ["/", "/?", "//a/./../b", "/%7e%2F?x=%41+&&?;[]{}|'\"<>^`\\"])
async def test_the_path_goes_out_byte_for_byte(
    stage: Stage, session: aiohttp.ClientSession, path: str
) -> None:
    node = await stage.start_node()
    assert (await prober(node, session, path=path).probe()).passed
    assert node.targets == [path.encode()]


async def test_a_request_names_the_probe_and_asks_for_nothing_special(
    stage: Stage, session: aiohttp.ClientSession
) -> None:
    node = await stage.start_node()
    await prober(node, session, method="HEAD").probe()
    request = node.requests[0]
    assert request.method == b"HEAD"
    assert {name.lower(): value for name, value in request.fields} == {
        b"host": node.address.encode(),
        b"user-agent": b"trackproxy-probe",
        b"accept": b"*/*",
        b"accept-encoding": b"identity",
        b"connection": b"close",
    }


@pytest.mark.parametrize(
    ("address", "settings", "host"),
    [
        ("192.0.2.1", {}, "192.0.2.1"),
        ("192.0.2.1:8080", {}, "192.0.2.1:8080"),
        ("192.0.2.1:8080", {"port": 80}, "192.0.2.1"),
        ("[2001:db8::80]", {}, "[2001:db8::80]"),
        ("[2001:db8::80]:81", {}, "[2001:db8::80]:81"),
        ("unix:/run/node", {"port": 81}, "localhost"),
        ("192.0.2.1:8080", {"host": "www.example.org"}, "www.example.org"),
    ],
)
async def test_host_is_the_setting_or_where_the_probe_goes(
    address: str, settings: dict[str, Any], host: str
) -> None:
    class Recorder:
        async def request(self, *_: object, headers: dict[str, str], **__: object) -> None:
            raise ValueError(headers["Host"])

    recorder = cast(aiohttp.ClientSession, Recorder())
    assert (await prober(address, recorder, **settings).probe()).reason == f"ValueError: {host}"


async def test_cookies_are_not_kept(stage: Stage, session: aiohttp.ClientSession) -> None:
    node = await stage.start_node(answering(answer("Set-Cookie: a=b; Path=/")))
    probing = prober(node, session)
    await probing.probe()
    await probing.probe()
    assert node.requests[1].values("Cookie") == []


async def test_proxies_of_the_environment_are_not_used(
    stage: Stage, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = await stage.start_node()
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://{proxy.address}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    node = await stage.start_node()
    assert (await prober(node, session).probe()).passed
    assert (node.targets, proxy.connections) == ([b"/"], [])


@both_types
async def test_a_port_of_its_own_is_probed_instead_of_the_endpoints(
    stage: Stage, session: aiohttp.ClientSession, kind: str
) -> None:
    node = await stage.start_node()
    port = int(node.address.rpartition(":")[2])
    assert (await prober("127.0.0.1:1", session, type=kind, port=port).probe()).passed
    await closed(node)


# --- the text ---


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b"all is OK here", True),
        (b"all is ok here", False),
        (b"x" * (TEXT_BYTES - 2) + b"OK", True),
        (b"x" * (TEXT_BYTES - 1) + b"OK", False),
        (b"x" * TEXT_BYTES + b"OK", False),
        (b"", False),
    ],
    ids=["there", "in other letters", "just inside", "half inside", "outside", "empty"],
)
async def test_the_text_must_be_within_the_first_64_kib(
    stage: Stage, session: aiohttp.ClientSession, body: bytes, found: bool
) -> None:
    result = await look(stage, answering(answer(body=body)), session, text="OK")
    assert result.passed is found
    if not found:
        assert result.reason == 'the text "OK" is missing'


async def test_a_text_that_comes_in_pieces_is_found(stage: Stage, session: aiohttp.ClientSession) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.read_and_send(OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        await exchange.wire.drip(chunked(b"zzG\xc3", b"\xbc", b"nzz"))

    assert (await look(stage, script, session, text="Gün")).passed


async def test_a_text_is_looked_for_in_the_body_as_it_came(
    stage: Stage, session: aiohttp.ClientSession
) -> None:
    labelled = answer("Content-Encoding: gzip", body=b"not compressed: OK")
    assert (await look(stage, answering(labelled), session, text="OK")).passed


async def test_of_all_that_a_node_sends_no_more_than_128_kib_is_looked_at(
    stage: Stage, session: aiohttp.ClientSession
) -> None:
    tiny = answer("Transfer-Encoding: chunked") + chunked(*[b"x"] * 25_000, b"OK")
    assert tiny.index(b"OK", 20) > MOST_BYTES
    result = await look(stage, answering(tiny), session, TIMEOUT_S, text="OK")
    assert (result.passed, result.reason) == (False, "no end of the answer within 0.3 s")


async def test_reading_ends_once_the_text_is_found(stage: Stage, session: aiohttp.ClientSession) -> None:
    result = await look(stage, answering(OK_HEAD + b"\r\nOK and no end"), session, text="OK")
    assert result.passed


async def test_an_answer_that_breaks_off_before_the_text_fails(
    stage: Stage, session: aiohttp.ClientSession
) -> None:
    script = breaking_off(OK_HEAD + b"Content-Length: 100\r\n\r\nnot yet")
    result = await look(stage, script, session, text="OK")
    assert (result.passed, result.reason) == (False, "the answer broke off")
