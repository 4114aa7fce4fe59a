"""The body of one answer on its way from a node to the client: taken out of its framing, and framed anew."""

from __future__ import annotations

from trackproxy.http.fields import CHUNKED, UNTIL_CLOSE
from trackproxy.http.framing import ChunkedReader, chunk, last_chunk
from trackproxy.http_sections import Limits


class AnswerBody:
    """done: all of it was read. clean: and no byte came after it.

    framing: the line of the head that tells the client where the body ends, if that is not its length.
    closing: the end of the connection is the end of the body for the client (HTTP/1.0 knows no other).
    """

    __slots__ = ("_chunks_out", "_left", "_reader", "clean", "closing", "done", "framing")

    def __init__(self, length: int, one_zero: bool, limits: Limits) -> None:
        """LENGTH: octets, CHUNKED or UNTIL_CLOSE. ONE_ZERO: the client speaks HTTP/1.0."""
        self._left = length
        self._reader = ChunkedReader(limits.chunk_extension, limits.trailer) if length == CHUNKED else None
        self._chunks_out = length < 0 and not one_zero
        self.closing = length < 0 and one_zero
        self.framing = b"Transfer-Encoding: chunked\r\n" if self._chunks_out else b""
        self.done = False
        self.clean = False

    def feed(self, data: bytes) -> bytes:
        """Take DATA from the node, return what the client gets; raises ValueError if its chunks are wrong."""
        if self._reader is not None:
            return self._feed_chunks(self._reader, data)
        if self._left == UNTIL_CLOSE:
            return chunk(data) if self._chunks_out else data
        if len(data) < self._left:
            self._left -= len(data)
            return data
        self.done, self.clean = True, len(data) == self._left
        return data[: self._left]

    def _feed_chunks(self, reader: ChunkedReader, data: bytes) -> bytes:
        payload = reader.feed(data)
        self.done, self.clean = reader.done, not reader.rest
        if not self._chunks_out:
            return payload
        return chunk(payload) + last_chunk(reader.trailer) if reader.done else chunk(payload)

    def end(self) -> bytes | None:
        """The node has closed in good order: return what ends the body, None if that is not whole."""
        if self._left != UNTIL_CLOSE:
            return None
        self.done = True
        return last_chunk(b"") if self._chunks_out else b""
