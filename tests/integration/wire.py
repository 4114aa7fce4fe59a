"""One end of one TCP connection, byte for byte.

Clients and nodes of the tests are both made of this. A pump reads whatever comes and keeps all of it, so
that a test can say afterwards that a byte never came. Every wait has a deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable

from tests.integration.messages import Fields, Message, fields_of, framing_of

DEADLINE_S = 5.0
BODY_DEADLINE_S = 30.0  # tens of megabytes on a busy machine
_PIECE_BYTES = 1 << 18


async def settle() -> None:
    """Let the loop turn until what was sent on loopback has been read and acted upon."""
    for _ in range(20):
        await asyncio.sleep(0)


class WireEnded(Exception):
    """The peer closed or reset before what was waited for had come."""


class Wire:
    """A connected socket; close() or reset() ends it.

    received: every byte that ever came. ended: "" while open, then "eof" or "reset".
    broken: something could not be sent, because the peer was gone.
    reading: with False nothing is read until resume(), so that the peer meets back-pressure.
    """

    def __init__(self, sock: socket.socket, *, reading: bool = True) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.received = bytearray()
        self.ended = ""
        self.broken = False
        self._at = 0
        self._news = asyncio.Event()
        self._flowing = asyncio.Event()
        if reading:
            self._flowing.set()
        self._pump = asyncio.create_task(self._read_on(), name="wire pump")

    async def send(self, data: bytes, deadline_s: float = DEADLINE_S) -> None:
        """Send all of it; a peer that has gone meanwhile shows in `broken`."""
        try:
            async with asyncio.timeout(deadline_s):
                await asyncio.get_running_loop().sock_sendall(self.sock, data)
        except ConnectionError:
            self.broken = True

    async def drip(self, data: bytes) -> None:
        """Send a byte at a time, and let everybody else have a turn after each."""
        for byte in data:
            await self.send(bytes([byte]))
            await asyncio.sleep(0)

    async def saw(self, marker: bytes) -> None:
        """Wait until these bytes have come, whoever reads them."""
        await self._wait(lambda: marker in self.received, f"no {marker!r}")

    async def until(self, marker: bytes) -> bytes:
        """Read up to the marker, included."""
        await self._wait(lambda: self.received.find(marker, self._at) >= 0, f"no {marker!r}")
        return self._take(self.received.index(marker, self._at) + len(marker) - self._at)

    async def exactly(self, size_bytes: int, deadline_s: float = DEADLINE_S) -> bytes:
        """Read so many bytes."""
        await self._wait(
            lambda: len(self.received) - self._at >= size_bytes, f"not {size_bytes} bytes", deadline_s
        )
        return self._take(size_bytes)

    async def rest(self, deadline_s: float = DEADLINE_S) -> bytes:
        """Read until the peer closes or resets; `ended` says which."""
        await self._wait(lambda: bool(self.ended), "not closed", deadline_s)
        return self._take(len(self.received) - self._at)

    async def ends_within(self, wait_s: float) -> bool:
        """Has the peer closed or reset, at the latest after so many seconds?"""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while not self.ended:
                    self._news.clear()
                    await self._news.wait()
        return bool(self.ended)

    async def stirs(self) -> None:
        """Wait for a byte that was not read yet; no deadline, since a script ends with its test."""
        while self._at == len(self.received):
            if self.ended:
                raise WireEnded(self.ended)
            self._news.clear()
            await self._news.wait()

    async def answer(self, method: bytes = b"GET") -> Message:
        """Read one answer to a request of this method."""
        line, fields = await self._head()
        status = int(line.split(b" ")[1])
        if method == b"HEAD" or status < 200 or status in (204, 304):
            return Message(line, fields)
        return await self._message(line, fields, b"close")

    async def request(self) -> Message:
        """Read one request."""
        line, fields = await self._head()
        return await self._message(line, fields, b"none")

    def half_close(self) -> None:
        """Send no more; reading goes on."""
        self.sock.shutdown(socket.SHUT_WR)

    def forget(self) -> None:
        """Keep no longer what was read: there is too much of it."""
        del self.received[: self._at]
        self._at = 0

    def pause(self) -> None:
        """Read no more for now."""
        self._flowing.clear()

    def resume(self) -> None:
        """Begin to read, for a wire that was made with reading=False."""
        self._flowing.set()

    def reset(self) -> None:
        """End with RST instead of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        """End; idempotent."""
        self._pump.cancel()
        self.sock.close()

    async def _read_on(self) -> None:
        loop = asyncio.get_running_loop()
        while not self.ended:
            await self._flowing.wait()
            try:
                piece = await loop.sock_recv(self.sock, _PIECE_BYTES)
                self.ended = "" if piece else "eof"
            except OSError:
                piece, self.ended = b"", "reset"
            self.received += piece
            self._news.set()

    async def _wait(self, ready: Callable[[], bool], problem: str, deadline_s: float = DEADLINE_S) -> None:
        try:
            async with asyncio.timeout(deadline_s):
                while not ready():
                    if self.ended:
                        raise WireEnded(self._explain(f"{self.ended}, and {problem}"))
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(self._explain(f"after {deadline_s} s {problem}")) from None

    def _explain(self, problem: str) -> str:
        return f"{problem} in {bytes(self.received[self._at :][:300])!r}"

    def _take(self, size_bytes: int) -> bytes:
        taken = bytes(self.received[self._at : self._at + size_bytes])
        self._at += size_bytes
        return taken

    async def _head(self) -> tuple[bytes, Fields]:
        line, *rest = (await self.until(b"\r\n\r\n"))[:-4].split(b"\r\n")
        return line, fields_of(rest)

    async def _message(self, line: bytes, fields: Fields, otherwise: bytes) -> Message:
        framing = framing_of(fields, otherwise)
        if framing == b"chunked":
            body, trailers = await self._chunks()
            return Message(line, fields, body, trailers)
        if framing == b"close":
            return Message(line, fields, await self.rest(BODY_DEADLINE_S))
        return Message(line, fields, await self.exactly(int(framing), BODY_DEADLINE_S))

    async def _chunks(self) -> tuple[bytes, Fields]:
        body = bytearray()
        while size := int((await self.until(b"\r\n")).split(b";")[0], 16):
            body += await self.exactly(size)
            assert await self.exactly(2) == b"\r\n"
        trailers = []
        while (line := await self.until(b"\r\n")) != b"\r\n":
            trailers.append(line[:-2])
        return bytes(body), fields_of(trailers)
