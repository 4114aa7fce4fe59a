"""What nodes are told about the client, and what stays between two neighbours."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.conftest import Stage
from tests.integration.messages import Message, post, request

TRUSTED = ["127.0.0.0/8"]
FORGED = (
    "X-Forwarded-For: 192.0.2.1",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: forged.example",
    "X-Forwarded-Port: 443",
    "X-Request-ID: mine",
)


async def seen_by_node(stage: Stage, raw: bytes, **service: Any) -> Message:
    """The request as the node reads it."""
    client, node = await stage.through(**service)
    await client.send(raw)
    assert (await client.answer()).status == 200
    return await node.requested()


async def test_a_node_learns_who_asked_and_for_what(stage: Stage) -> None:
    node = await stage.start_node()
    proxy = await stage.start_proxy([node])
    client = await stage.connect(proxy)
    await client.send(request("/", host="site.example:8080"))
    await client.answer()
    seen = await node.requested()
    assert seen.value("X-Forwarded-For") == b"127.0.0.1"
    assert seen.value("X-Forwarded-Proto") == b"http"
    assert seen.value("X-Forwarded-Host") == b"site.example:8080"
    assert seen.value("X-Forwarded-Port") == proxy.rpartition(":")[2].encode()


async def test_what_an_untrusted_client_says_about_itself_is_replaced(stage: Stage) -> None:
    seen = await seen_by_node(stage, request("/", *FORGED))
    assert seen.value("X-Forwarded-For") == b"127.0.0.1"
    assert seen.value("X-Forwarded-Proto") == b"http"
    assert seen.value("X-Forwarded-Host") == b"a"
    assert seen.value("X-Forwarded-Port") != b"443"
    assert seen.value("X-Request-ID") != b"mine"


async def test_what_a_trusted_proxy_says_is_kept_and_its_own_address_appended(stage: Stage) -> None:
    seen = await seen_by_node(stage, request("/", *FORGED), trusted_proxies=TRUSTED)
    assert seen.value("X-Forwarded-For") == b"192.0.2.1, 127.0.0.1"
    assert seen.value("X-Forwarded-Proto") == b"https"
    assert seen.value("X-Forwarded-Host") == b"forged.example"
    assert seen.value("X-Forwarded-Port") == b"443"
    assert seen.value("X-Request-ID") == b"mine"


async def test_several_lines_of_a_trusted_proxy_become_one_list(stage: Stage) -> None:
    raw = request("/", "X-Forwarded-For: 192.0.2.1, 192.0.2.2", "x-forwarded-for: 192.0.2.3")
    seen = await seen_by_node(stage, raw, trusted_proxies=[*TRUSTED, "192.0.2.2/31"])
    assert seen.value("X-Forwarded-For") == b"192.0.2.1, 192.0.2.2, 192.0.2.3, 127.0.0.1"


async def test_a_peer_outside_the_trusted_networks_is_not_believed(stage: Stage) -> None:
    seen = await seen_by_node(stage, request("/", *FORGED), trusted_proxies=["10.0.0.0/8"])
    assert seen.value("X-Forwarded-For") == b"127.0.0.1"


@pytest.mark.parametrize("name", ["X_Forwarded_For", "X-Forwarded_For", "x_forwarded_proto", "X_Request_ID"])
async def test_a_name_that_a_node_could_mistake_for_ours_is_not_passed_on(stage: Stage, name: str) -> None:
    seen = await seen_by_node(stage, request("/", f"{name}: forged"))
    assert b"forged" not in [value for _, value in seen.fields]


async def test_connection_cannot_remove_what_the_proxy_says(stage: Stage) -> None:
    named = "X-Forwarded-For, X-Forwarded-Proto, X-Request-ID, Via"
    seen = await seen_by_node(stage, request("/", f"Connection: {named}"))
    assert seen.value("X-Forwarded-For") == b"127.0.0.1"
    assert seen.value("X-Forwarded-Proto") == b"http"
    assert seen.value("X-Request-ID")


async def test_connection_cannot_remove_host_or_length(stage: Stage) -> None:
    seen = await seen_by_node(stage, post("/", b"hello", "Connection: Host, Content-Length"))
    assert (seen.value("Host"), seen.value("Content-Length"), seen.body) == (b"a", b"5", b"hello")


async def test_connection_cannot_remove_the_coding(stage: Stage) -> None:
    raw = request("/", "Connection: Transfer-Encoding", "Transfer-Encoding: chunked", method="POST")
    seen = await seen_by_node(stage, raw + b"5\r\nhello\r\n0\r\n\r\n")
    assert seen.body == b"hello"


async def test_fields_between_the_client_and_the_proxy_are_not_passed_on(stage: Stage) -> None:
    private = (
        "Connection: close, X-Private, keep-alive",
        "Connection: x-other",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "Proxy-Authorization: Basic x",
        "TE: trailers",
        "Upgrade: websocket",
        "X-Private: 1",
        "X-Other: 1",
    )
    seen = await seen_by_node(stage, request("/", *private, "X-Public: 1"))
    assert seen.value("X-Public") == b"1"
    names = {line.partition(":")[0] for line in private if not line.startswith("Connection")}
    assert [name for name in names if seen.values(name)] == []
    assert seen.tokens("Connection") <= {b"keep-alive"}


async def test_other_fields_keep_their_order_their_case_and_their_values(stage: Stage) -> None:
    fields = [
        "X-B: 2",
        "x-a: \xe9t\xe9",
        "X-B: 1",
        "Cookie: a=1; b=2",
        "Cookie: c=3",
        "X-Empty:",
        "X-T: a\tb",
    ]
    seen = await seen_by_node(stage, request("/", *fields))
    sent = [tuple(part.strip() for part in line.encode("latin-1").split(b":", 1)) for line in fields]
    assert [pair for pair in seen.fields if pair in sent] == sent


async def test_a_request_without_an_id_gets_one_of_its_own(stage: Stage) -> None:
    client, node = await stage.through()
    for _ in range(3):
        await client.send(request("/"))
        await client.answer()
    ids = {message.value("X-Request-ID") for message in node.requests}
    assert len(ids) == 3
    assert all(ids)


async def test_via_names_the_proxy_behind_those_before_it(stage: Stage) -> None:
    client, node = await stage.through(via="edge1")
    await client.send(request("/", "Via: 1.0 first"))
    await client.answer()
    await client.send(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
    await client.answer()
    listed = [b", ".join(message.values("Via")) for message in node.requests]
    assert listed == [b"1.0 first, 1.1 edge1", b"1.0 edge1"]


@pytest.mark.parametrize(
    ("trusted", "expected"),
    [([], b"for=127.0.0.1"), (TRUSTED, b"for=192.0.2.1, for=127.0.0.1")],
    ids=["replaced", "appended"],
)
async def test_forwarded_is_sent_when_it_is_wanted(stage: Stage, trusted: list[str], expected: bytes) -> None:
    raw = request("/", "Forwarded: for=192.0.2.1", host="site.example")
    seen = await seen_by_node(stage, raw, trusted_proxies=trusted, forwarded=True)
    value = b", ".join(seen.values("Forwarded"))
    elements = b", ".join(part.strip().split(b";")[0] for part in value.split(b","))
    assert elements == expected
    assert b"proto=http" in value
    assert b"host=site.example" in value.replace(b'"', b"")


async def test_forwarded_of_an_untrusted_client_is_not_passed_on(stage: Stage) -> None:
    seen = await seen_by_node(stage, request("/", "Forwarded: for=192.0.2.1"))
    assert seen.values("Forwarded") == []


async def test_a_client_of_http_1_0_without_host_gets_through(stage: Stage) -> None:
    seen = await seen_by_node(stage, b"GET /x HTTP/1.0\r\n\r\n")
    assert seen.line == b"GET /x HTTP/1.1"
    assert len(seen.values("Host")) == 1
