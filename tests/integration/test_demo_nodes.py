"""The demo's nodes answer the documented forms, and speak NNTP and SMTP, as a real node would."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp.test_utils import TestClient
from aiohttp.web import Application, Request
from pytest_aiohttp.plugin import AiohttpClient

from trackproxy.demo import NODES, PIXEL, Node, Places, open_sockets, running
from trackproxy.demo_sessions import ARTICLES, LINE_BYTES, Store

DEADLINE_S = 10.0


@pytest.fixture
async def client(aiohttp_client: AiohttpClient) -> TestClient[Request, Application]:
    return await aiohttp_client(Node("node2").application())


async def test_an_open_is_a_pixel_that_is_never_cached(client: TestClient[Request, Application]) -> None:
    response = await client.get("/db/7/42/1.gif")
    assert await response.read() == PIXEL
    assert len(PIXEL) == 43
    assert response.headers["Cache-Control"] == "no-cache, no-store, must-revalidate, max-age=0"
    assert response.headers["X-Demo-Node"] == "node2"


async def test_a_click_leads_on_to_a_page_that_is_there(client: TestClient[Request, Application]) -> None:
    response = await client.get("/t/7/42/3/1/", allow_redirects=False)
    assert response.status == 302
    assert (await client.get(response.headers["Location"])).status == 200


async def test_one_click_unsubscribes_without_redirect_or_cookie(
    client: TestClient[Request, Application],
) -> None:
    response = await client.post("/u/7/42/", data={"List-Unsubscribe": "One-Click"}, allow_redirects=False)
    assert response.status == 200
    assert "Set-Cookie" not in response.headers


async def test_a_get_alone_unsubscribes_nobody(client: TestClient[Request, Application]) -> None:
    assert "<form" in await (await client.get("/u/7/42/")).text()


async def test_a_session_is_counted_by_its_cookie(client: TestClient[Request, Application]) -> None:
    texts = [await (await client.get("/")).text() for _ in range(2)]
    assert ["Visit 1 of" in texts[0], "Visit 2 of" in texts[1]] == [True, True]


ARTICLE = (
    b"From: a@b.test\r\nSubject: Dots\r\nNewsgroups: demo.test\r\nMessage-ID: <1@b.test>\r\n\r\n..one\r\n"
)
MAIL = b"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n"
LARGE = b"." * 999 + b"\r\n"  # with its dot-stuffing, a line of a message that is too large


class Talk:
    """A client that has been greeted."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def line(self) -> str:
        """The next line; empty if the node has closed."""
        async with asyncio.timeout(DEADLINE_S):
            return (await self._reader.readline()).decode()

    async def ask(self, text: bytes) -> str:
        """The first line that answers it."""
        self._writer.write(text)
        return await self.line()

    async def ends(self) -> bool:
        """Whether the node closes, whatever it says before."""
        async with asyncio.timeout(DEADLINE_S):
            await self._reader.read()
        return True

    async def block(self) -> list[str]:
        """The lines up to a single dot."""
        lines = []
        while (line := await self.line()) != ".\r\n":
            assert line
            lines.append(line)
        return lines


Connect = Callable[[str, str], Awaitable[Talk]]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Connects to the demo's nodes: `await connect("news", "node1")`."""
    places = Places(web="127.0.0.1:1", news="127.0.0.1:2", mail="127.0.0.1:3")
    writers = []
    with open_sockets(places) as sockets:
        ports = {service: [one.getsockname()[1] for one in sockets[service]] for service in sockets}

        async def connected(service: str, node: str) -> Talk:
            reader, writer = await asyncio.open_connection("127.0.0.1", ports[service][NODES.index(node)])
            writers.append(writer)
            talk = Talk(reader, writer)
            assert f" {node} " in await talk.line()
            return talk

        async with running(sockets):
            yield connected
            for writer in writers:
                writer.close()


async def test_an_article_that_one_node_has_taken_is_read_at_another(connect: Connect) -> None:
    poster, reader = await connect("news", "node1"), await connect("news", "node2")
    assert (await poster.ask(b"POST\r\n")).startswith("340 ")
    assert await poster.ask(ARTICLE + b".\r\n") == "240 node1 has taken <1@b.test>\r\n"
    assert await reader.ask(b"GROUP demo.test\r\n") == "211 2 1 2 demo.test\r\n"
    assert await reader.ask(b"ARTICLE 2\r\n") == "220 2 <1@b.test>\r\n"
    lines = await reader.block()
    assert lines[0] == "Path: node1!not-for-mail\r\n"
    assert lines[-2:] == ["\r\n", "..one\r\n"]
    assert await reader.ask(b"STAT <1@b.test>\r\n") == "223 0 <1@b.test>\r\n"
    assert await reader.ask(b"OVER 2-\r\n") == "224 overview\r\n"
    assert [line.split("\t")[:3] for line in await reader.block()] == [["2", "Dots", "a@b.test"]]


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (b"DATE", "111 20"),
        (b"MODE READER", "200 "),
        (b"CAPABILITIES", "101 "),
        (b"LIST", "215 "),
        (b"HELP", "100 "),
        (b"GROUP none", "411 "),
        (b"ARTICLE", "412 "),
        (b"GROUP demo.announce\r\nHEAD", "211 0 1 0 "),
        (b"ARTICLE <none@b.test>", "430 "),
        (b"QUIT", "205 "),
    ],
)
async def test_a_news_node_knows_its_commands(connect: Connect, command: bytes, answer: str) -> None:
    assert (await (await connect("news", "node3")).ask(command + b"\r\n")).startswith(answer)


@pytest.mark.parametrize(
    "article",
    [
        b"hello\r\n",
        ARTICLE.replace(b"demo.test", b"other.test"),
        ARTICLE.replace(b"<1@b.test>", b"1@b test"),
        ARTICLE + LARGE * 1100,
    ],
    ids=["no head", "no known group", "bad Message-ID", "too large"],
)
async def test_an_article_is_refused_and_the_session_goes_on(connect: Connect, article: bytes) -> None:
    poster = await connect("news", "node1")
    await poster.ask(b"POST\r\n")
    assert (await poster.ask(article + b".\r\n")).startswith("441 ")
    assert (await poster.ask(b"GROUP demo.test\r\n")).startswith("211 1 ")


def test_the_store_forgets_its_oldest_articles() -> None:
    store = Store()
    for number in range(ARTICLES + 5):
        store.add("node1", ARTICLE.replace(b"<1@", b"<%d@" % number))
    assert store.marks("demo.test") == (7, ARTICLES + 6)
    assert len(store.by_id) == len(store.groups["demo.test"]) == ARTICLES


async def test_a_mail_node_takes_a_message_and_counts_it(connect: Connect) -> None:
    sender = await connect("mail", "node2")
    assert await sender.ask(b"EHLO b.test\r\n") == "250-node2\r\n"
    assert [await sender.line(), await sender.line()] == ["250-8BITMIME\r\n", "250 SIZE 1048576\r\n"]
    for number in (1, 2):
        answers = [await sender.ask(MAIL), await sender.line(), (await sender.line())[:4]]
        assert answers == ["250 ok\r\n", "250 ok\r\n", "354 "]
        answer = await sender.ask(b"Subject: x\r\n\r\n..\r\n.\r\n")
        assert answer == f"250 node2 has taken message {number}, and thrown it away\r\n"
    assert (await sender.ask(b"VRFY a\r\n")).startswith("252 ")
    assert (await sender.ask(b"QUIT\r\n")).startswith("221 ")
    assert await sender.ends()


async def test_a_message_that_is_too_large_is_refused_and_the_session_goes_on(connect: Connect) -> None:
    sender = await connect("mail", "node1")
    assert (await sender.ask(b"HELO b.test\r\n")).startswith("250 ")
    assert (await sender.ask(b"MAIL FROM:<a@b.test> SIZE=1048577\r\n")).startswith("552 ")
    assert [await sender.ask(MAIL), await sender.line(), (await sender.line())[:4]][2] == "354 "
    assert (await sender.ask(LARGE * 1100 + b".\r\n")).startswith("552 ")
    assert (await sender.ask(MAIL)).startswith("250 ")


async def test_a_message_without_an_end_is_cut_off(connect: Connect) -> None:
    sender = await connect("mail", "node1")
    await sender.ask(b"HELO b.test\r\n")
    assert [await sender.ask(MAIL), await sender.line(), (await sender.line())[:4]][2] == "354 "
    assert (await sender.ask(LARGE * 9000)).startswith("500 ")
    assert await sender.ends()


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (b"MAIL FROM:<a@b.test>", "503 "),
        (b"HELO b.test\r\nMAIL a@b.test", "250 "),
        (b"RCPT TO:<a@b.test>", "503 "),
        (b"DATA", "503 "),
    ],
)
async def test_a_mail_node_wants_its_commands_in_order(connect: Connect, command: bytes, answer: str) -> None:
    assert (await (await connect("mail", "node1")).ask(command + b"\r\n")).startswith(answer)


@pytest.mark.parametrize("service", ["news", "mail"])
async def test_nonsense_is_refused_and_the_session_goes_on(connect: Connect, service: str) -> None:
    client = await connect(service, "node1")
    for nonsense in (b"\x00\xff\xfe\r\n", b"\r\n", b"GET / HTTP/1.1\n"):
        assert (await client.ask(nonsense)).startswith("500 ")
    assert (await client.ask(b"quit\n"))[:4] in ("205 ", "221 ")


@pytest.mark.parametrize(("service", "code"), [("news", "501 "), ("mail", "500 ")])
async def test_a_line_without_an_end_is_refused_and_the_session_over(
    connect: Connect, service: str, code: str
) -> None:
    client = await connect(service, "node1")
    assert (await client.ask(b"x" * (LINE_BYTES + 1))).startswith(code)
    assert await client.ends()


@pytest.mark.parametrize(("service", "answer"), [("news", "400 "), ("mail", "421 ")])
async def test_a_silent_client_is_sent_away(
    connect: Connect, service: str, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trackproxy.demo_sessions.SILENCE_S", 0.05)
    assert (await (await connect(service, "node1")).line()).startswith(answer)


async def test_a_client_too_many_is_turned_away(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trackproxy.demo_sessions.SESSIONS", 1)
    first = await connect("mail", "node1")
    second = await connect("mail", "node1")  # greeted with 421
    assert await second.ends()
    assert (await first.ask(b"NOOP\r\n")).startswith("250 ")
