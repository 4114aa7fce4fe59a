"""The demo's newsgroups and incoming mail: as much of RFC 3977 and RFC 5321 as it takes to try a proxy with.

Articles are in one store, as nodes of a cluster share one database; mail is counted and thrown away. A line
may end with LF alone, since people type into curl and nc. Whatever a client does, what is kept of it has a
bound, and each wait for it has a deadline.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import partial

SILENCE_S = 600.0  # RFC 5321, 4.5.3.2.7: 5 minutes at least; RFC 3977, 3.1: 3
BLOCK_S = 600.0  # an article or a message as a whole
WRITE_S = 60.0  # a client that takes nothing
LINGER_S = 2.0  # reading on after a refusal, so that the client sees it
SESSIONS = 100  # of a node in one protocol, at once
LINE_BYTES = 16 * 1024
BLOCK_BYTES = 1 << 20  # of an article or a message
WASTE_BYTES = 8 * BLOCK_BYTES  # read of one that is too large, before its client is cut off
ARTICLES = 1000  # in the store; the oldest goes first
STORE_BYTES = 16 * BLOCK_BYTES
RECIPIENTS = 100  # of a message; RFC 5321, 4.5.3.1.8
GROUPS = {"demo.announce": "What is new", "demo.test": "Try it here"}
WELCOME = (
    b"From: demo@example.com\r\nSubject: Welcome\r\nNewsgroups: demo.test\r\n\r\nEvery node has this.\r\n"
)
TOO_LARGE = f"552 a message has at most {BLOCK_BYTES} bytes"
OVERVIEW = ("Subject:", "From:", "Date:", "Message-ID:", "References:", ":bytes", ":lines")

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Handler = Callable[[list[str]], Awaitable[bytes]]


class Refused(Exception):
    """A command is refused with this line; the session goes on."""


class Ended(Exception):
    """The session is over, with this line if there is one."""


class Session:
    """A client of one node. Subclasses fill `commands`, whose handlers return all that is to be said."""

    greeting = "200 {node} is ready"
    crowded = idle = "400 {node} closes the connection"
    too_long = "501 {node}: the line is too long"
    farewell = "205 {node} says goodbye"

    def __init__(self, node: str, *streams: *Streams) -> None:
        self.node = node
        self.commands: dict[str, Handler] = {"QUIT": self.quit}
        self._reader, self._writer = streams

    async def talk(self, welcome: bool) -> None:
        """Serve the client until it leaves, or send it away if it is not WELCOME; the caller closes."""
        try:
            if not welcome:
                raise Ended(self.crowded)
            await self.say(_line(self.greeting.format(node=self.node)))
            while True:
                await self.say(await self._answer(await self.line()))
        except Ended as end:
            await self._part(str(end))

    async def _answer(self, line: bytes) -> bytes:
        command, *words = line.decode(errors="replace").split() or [""]
        handler = self.commands.get(command.upper())
        try:
            return _line("500 unknown command") if handler is None else await handler(words)
        except Refused as refusal:
            return _line(str(refusal))

    async def _part(self, text: str) -> None:
        with suppress(Ended, OSError, TimeoutError):
            async with asyncio.timeout(LINGER_S):
                await self.say(_line(text.format(node=self.node)) if text else b"")
                self._writer.write_eof()
                while await self._reader.read(LINE_BYTES):
                    pass

    async def say(self, text: bytes) -> None:
        """Send, and wait until the client takes it; raises Ended if it does not."""
        self._writer.write(text)
        try:
            async with asyncio.timeout(WRITE_S):
                await self._writer.drain()
        except (OSError, TimeoutError):
            self._writer.transport.abort()
            raise Ended from None

    async def line(self) -> bytes:
        """Return the client's next line without its end; raises Ended if there is none."""
        try:
            async with asyncio.timeout(SILENCE_S):
                line = await self._reader.readuntil(b"\n")
        except asyncio.LimitOverrunError:
            raise Ended(self.too_long) from None
        except TimeoutError:
            raise Ended(self.idle) from None
        except (asyncio.IncompleteReadError, OSError):
            raise Ended from None
        return line[:-1].removesuffix(b"\r")

    async def block(self) -> bytes | None:
        """Return the lines up to a single dot, without dot-stuffing; None if they are too many."""
        try:
            async with asyncio.timeout(BLOCK_S):
                return await self._block()
        except TimeoutError:
            raise Ended(self.idle) from None

    async def _block(self) -> bytes | None:
        kept, size_bytes = bytearray(), 0
        while (line := await self.line()) != b".":
            line = line.removeprefix(b".") + b"\r\n"
            size_bytes += len(line)
            if size_bytes <= BLOCK_BYTES:
                kept += line
            elif size_bytes > WASTE_BYTES:
                raise Ended(self.too_long)
        return bytes(kept) if size_bytes <= BLOCK_BYTES else None

    async def quit(self, words: list[str]) -> bytes:
        raise Ended(self.farewell)


@dataclass(frozen=True, slots=True)
class Article:
    """An article as it is kept. head, body: whole lines; fields: of its head, names in lower case."""

    head: bytes
    body: bytes
    fields: dict[str, str]

    @property
    def message_id(self) -> str:
        return self.fields["message-id"]

    @property
    def groups(self) -> list[str]:
        return sorted(GROUPS.keys() & re.split("[ ,]+", self.fields["newsgroups"]))

    def overview(self, number: int) -> bytes:
        """Return its line in OVER (RFC 3977, 8.3.2)."""
        fields = [self.fields.get(name[:-1].lower(), "") for name in OVERVIEW if name.endswith(":")]
        sizes = [len(self.head) + 2 + len(self.body), self.body.count(b"\n")]
        return "\t".join(map(str, [number, *fields, *sizes])).encode() + b"\r\n"


def _article(node: str, text: bytes) -> Article:
    """Return what was posted at NODE, with the fields that a server adds (RFC 5537, 3.5)."""
    head, _, body = text.partition(b"\r\n\r\n")
    head = b"Path: %s!not-for-mail\r\n%s\r\n" % (node.encode(), head.removesuffix(b"\r\n"))
    given = _fields(head)
    if "message-id" not in given:
        head += b"Message-ID: <%s@demo.invalid>\r\n" % secrets.token_hex(8).encode()
    if "date" not in given:
        head += b"Date: %s\r\n" % format_datetime(datetime.now(UTC)).encode()
    article = Article(head, body, _fields(head))
    if not {"from", "subject", "newsgroups"} <= given.keys() or not article.groups:
        raise Refused(f"441 needs From, Subject, and Newsgroups with {' or '.join(GROUPS)}")
    if not re.fullmatch("<[!-;=?-~]{1,248}>", article.message_id):  # RFC 3977, 3.6
        raise Refused("441 has a bad Message-ID")
    return article


def _fields(head: bytes) -> dict[str, str]:
    lines = re.sub(rb"\r\n[ \t]+", b" ", head).decode(errors="replace").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return {name.lower(): re.sub(r"[\x00-\x1f]", " ", value).strip() for name, _, value in pairs}


class Store:
    """The articles of all nodes, by group and number and by their Message-ID."""

    def __init__(self) -> None:
        self.groups: dict[str, dict[int, Article]] = {group: {} for group in GROUPS}
        self.by_id: dict[str, Article] = {}
        self._last = dict.fromkeys(GROUPS, 0)
        self._size_bytes = 0
        self.add("node1", WELCOME)

    def add(self, node: str, text: bytes) -> Article:
        """Keep what was posted at NODE; raises Refused if it is no article, or known."""
        article = _article(node, text)
        if article.message_id in self.by_id:
            raise Refused("441 this article is known already")
        self.by_id[article.message_id] = article
        for group in article.groups:
            self._last[group] += 1
            self.groups[group][self._last[group]] = article
        self._size_bytes += len(article.head) + len(article.body)
        while len(self.by_id) > ARTICLES or self._size_bytes > STORE_BYTES:
            self._forget(next(iter(self.by_id.values())))
        return article

    def _forget(self, oldest: Article) -> None:
        del self.by_id[oldest.message_id]
        self._size_bytes -= len(oldest.head) + len(oldest.body)
        for group in oldest.groups:
            del self.groups[group][next(iter(self.groups[group]))]

    def marks(self, group: str) -> tuple[int, int]:
        """Return the lowest and the highest number; in an empty group low is above high (6.1.1)."""
        return next(iter(self.groups[group]), self._last[group] + 1), self._last[group]


class NewsSession(Session):
    """A reader, who may post."""

    greeting = "200 {node} demo news, posting allowed"

    def __init__(self, store: Store, node: str, *streams: *Streams) -> None:
        super().__init__(node, *streams)
        self._store, self._group, self._number = store, "", 0
        self.commands |= {"CAPABILITIES": self.capabilities, "DATE": self.date, "MODE": self.mode}
        self.commands |= {"LIST": self.catalogue, "GROUP": self.group, "POST": self.post, "HELP": self.help}
        self.commands |= {name: partial(self.show, name) for name in ("STAT", "ARTICLE", "HEAD", "BODY")}
        self.commands |= {"OVER": self.over, "XOVER": self.over}

    async def capabilities(self, words: list[str]) -> bytes:
        known = ("VERSION 2", "READER", "POST", "OVER MSGID", "LIST ACTIVE NEWSGROUPS OVERVIEW.FMT")
        return _list("101 capabilities", known)

    async def help(self, words: list[str]) -> bytes:
        return _list("100 commands", self.commands)

    async def date(self, words: list[str]) -> bytes:
        return _line(f"111 {datetime.now(UTC):%Y%m%d%H%M%S}")

    async def mode(self, words: list[str]) -> bytes:
        if [word.upper() for word in words] != ["READER"]:
            raise Refused("501 the only mode is READER")
        return _line(self.greeting.format(node=self.node))

    async def catalogue(self, words: list[str]) -> bytes:
        what = words[0].upper() if words else "ACTIVE"
        if what == "ACTIVE":
            marks = {group: self._store.marks(group) for group in GROUPS}
            return _list("215 groups", (f"{group} {high} {low} y" for group, (low, high) in marks.items()))
        if what == "NEWSGROUPS":
            return _list("215 descriptions", (f"{group}\t{text}" for group, text in GROUPS.items()))
        if what == "OVERVIEW.FMT":
            return _list("215 fields", OVERVIEW)
        raise Refused("503 LIST knows ACTIVE, NEWSGROUPS and OVERVIEW.FMT")

    async def group(self, words: list[str]) -> bytes:
        if not words or words[0] not in GROUPS:
            raise Refused("411 no such newsgroup; LIST shows them")
        self._group = words[0]
        low, high = self._store.marks(self._group)
        self._number = low
        return _line(f"211 {len(self._store.groups[self._group])} {low} {high} {self._group}")

    async def show(self, command: str, words: list[str]) -> bytes:
        number, article = self._find(words)
        self._number = number or self._number
        found = f"{number} {article.message_id}"
        if command == "STAT":
            return _line(f"223 {found}")
        if command == "HEAD":
            return _block(f"221 {found}", article.head)
        if command == "BODY":
            return _block(f"222 {found}", article.body)
        return _block(f"220 {found}", article.head + b"\r\n" + article.body)

    def _find(self, words: list[str]) -> tuple[int, Article]:
        """Return an article and its number; 0 if it was asked for by its Message-ID."""
        which = words[0] if words else str(self._number)
        if which.startswith("<"):
            if which not in self._store.by_id:
                raise Refused("430 no article with that Message-ID")
            return 0, self._store.by_id[which]
        number = int(which) if re.fullmatch("[0-9]{1,9}", which) else 0
        article = self._chosen().get(number)
        if article is None:
            raise Refused("423 no article with that number" if words else "420 no current article")
        return number, article

    def _chosen(self) -> dict[int, Article]:
        if not self._group:
            raise Refused("412 no newsgroup is selected; GROUP does it")
        return self._store.groups[self._group]

    async def over(self, words: list[str]) -> bytes:
        span = re.fullmatch("([0-9]{1,9})-([0-9]{0,9})", words[0] if words else "")
        if span is None:
            number, article = self._find(words)
            return _block("224 overview", article.overview(number))
        chosen, last = self._chosen(), int(span[2] or 10**9)
        lines = [chosen[number].overview(number) for number in chosen if int(span[1]) <= number <= last]
        if not lines:
            raise Refused("423 no articles in that range")
        return _block("224 overview", b"".join(lines))

    async def post(self, words: list[str]) -> bytes:
        await self.say(_line("340 send the article, and a single dot behind it"))
        text = await self.block()
        if text is None:
            raise Refused(f"441 an article has at most {BLOCK_BYTES} bytes")
        return _line(f"240 {self.node} has taken {self._store.add(self.node, text).message_id}")


@dataclass(slots=True, eq=False)
class Mail:
    """What a node has made of its mail. taken: messages that were accepted, and thrown away."""

    taken: int = 0


class MailSession(Session):
    """A sender of mail."""

    greeting = "220 {node} ESMTP demo"
    crowded = idle = "421 {node} closes the connection"
    too_long = "500 {node}: the line is too long"
    farewell = "221 {node} says goodbye"

    def __init__(self, mail: Mail, node: str, *streams: *Streams) -> None:
        super().__init__(node, *streams)
        self._mail, self._hello, self._sender, self._recipients = mail, False, False, 0
        self.commands |= {"HELO": self.helo, "EHLO": self.ehlo, "MAIL": self.sender, "RCPT": self.recipient}
        self.commands |= {"DATA": self.message, "RSET": self.reset, "NOOP": self.noop, "VRFY": self.verify}

    async def helo(self, words: list[str]) -> bytes:
        await self.reset(words)
        self._hello = True
        return _line(f"250 {self.node}")

    async def ehlo(self, words: list[str]) -> bytes:
        await self.helo(words)
        return _line(f"250-{self.node}\r\n250-8BITMIME\r\n250 SIZE {BLOCK_BYTES}")

    async def sender(self, words: list[str]) -> bytes:
        if not self._hello or self._sender:
            raise Refused("503 EHLO comes first, and MAIL once")
        path = re.fullmatch(r"FROM: ?<[^<>]*>( .*)?", " ".join(words), re.IGNORECASE)
        if path is None:
            raise Refused("501 say MAIL FROM:<address>")
        size = re.search(r" SIZE=([0-9]{1,20})\b", path[1] or "", re.IGNORECASE)  # RFC 1870
        if size and int(size[1]) > BLOCK_BYTES:
            raise Refused(TOO_LARGE)
        self._sender = True
        return _line("250 ok")

    async def recipient(self, words: list[str]) -> bytes:
        if not self._sender:
            raise Refused("503 MAIL comes first")
        if not re.fullmatch(r"TO: ?<[^<>]+>( .*)?", " ".join(words), re.IGNORECASE):
            raise Refused("501 say RCPT TO:<address>")
        if self._recipients == RECIPIENTS:
            raise Refused(f"452 a message has at most {RECIPIENTS} recipients")
        self._recipients += 1
        return _line("250 ok")

    async def message(self, words: list[str]) -> bytes:
        if not self._recipients:
            raise Refused("503 MAIL and RCPT come first")
        await self.say(_line("354 send the message, and a single dot behind it"))
        text = await self.block()
        await self.reset(words)
        if text is None:
            raise Refused(TOO_LARGE)
        self._mail.taken += 1
        return _line(f"250 {self.node} has taken message {self._mail.taken}, and thrown it away")

    async def reset(self, words: list[str]) -> bytes:
        self._sender, self._recipients = False, 0
        return _line("250 ok")

    async def noop(self, words: list[str]) -> bytes:
        return _line("250 ok")

    async def verify(self, words: list[str]) -> bytes:
        return _line("252 send it, and see")


def _line(text: str) -> bytes:
    return text.encode() + b"\r\n"


def _list(status: str, lines: Iterable[str]) -> bytes:
    return _block(status, b"".join(map(_line, lines)))


def _block(status: str, text: bytes) -> bytes:
    """Return a status and whole lines behind it (RFC 3977, 3.1.1)."""
    return _line(status) + re.sub(rb"(?m)^\.", b"..", text) + b".\r\n"


@asynccontextmanager
async def serving(begin: Callable[[*Streams], Session], listener: socket.socket) -> AsyncIterator[None]:
    """Serve clients of a listening socket with sessions that BEGIN makes; all are broken off at the end."""
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        welcome = len(tasks) < SESSIONS
        tasks.add(task)
        try:
            await begin(reader, writer).talk(welcome)
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(connected, sock=listener, limit=LINE_BYTES)
    try:
        yield
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
