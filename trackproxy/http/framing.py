"""Where a body ends (RFC 9112, 6 and 7): what came in is taken apart, what goes out is framed anew.

Nothing here waits or buffers more than one line: bytes are fed in as they come, payload comes out.
"""

from __future__ import annotations

import re
from enum import Enum

from trackproxy.errors import BadRequest
from trackproxy.http.fields import trailer_lines

LAST_CHUNK = b"0\r\n\r\n"

# RFC 9112, 7.1. Extensions are read over; what they may hold has no CR, LF or other control in it.
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(;[\t\x20-\x7e\x80-\xff]*)?")
_MAX_CHUNK = 1 << 60
_SIZE_DIGITS = 16


class _Part(Enum):
    SIZE = "size line"
    PAYLOAD = "payload"
    PAYLOAD_END = "CRLF after the payload"
    TRAILER = "trailer lines"
    DONE = "done"


class ChunkedReader:
    """Takes the chunked coding off a body.

    begun: the first size line was valid. done: all of it was read; then `rest` is what came after it
    and `trailer` the trailer lines as they are forwarded.
    """

    __slots__ = (
        "_extension",
        "_held",
        "_left",
        "_part",
        "_trailer_limit",
        "begun",
        "done",
        "rest",
        "trailer",
    )

    def __init__(self, extension: int, trailer: int) -> None:
        """Limits in bytes: EXTENSION of one chunk, TRAILER lines together."""
        self._extension = extension
        self._trailer_limit = trailer
        self._part = _Part.SIZE
        self._held = b""
        self._left = 0
        self.begun = False
        self.done = False
        self.rest = b""
        self.trailer = b""

    def feed(self, data: bytes) -> bytes:
        """Take DATA, return the payload in it; raises ValueError when it is not chunked as it should be."""
        if self._held:
            data, self._held = self._held + data, b""
        payload: list[bytes] = []
        at = 0
        while at < len(data) and not self.done:
            step = self._step(data, at, payload)
            if step is None:
                self._held = data[at:]
                break
            at = step
        if self.done:
            self.rest = data[at:]
        return payload[0] if len(payload) == 1 else b"".join(payload)

    def _step(self, data: bytes, at: int, payload: list[bytes]) -> int | None:
        """Read one part from AT on; return where it ends, None if more is needed to tell."""
        if self._part is _Part.PAYLOAD:
            piece = data[at : at + self._left]
            payload.append(piece)
            self._left -= len(piece)
            if not self._left:
                self._part = _Part.PAYLOAD_END
            return at + len(piece)
        if self._part is _Part.SIZE:
            return self._read_size(data, at)
        if self._part is _Part.PAYLOAD_END:
            return self._read_payload_end(data, at)
        return self._read_trailer(data, at)

    def _read_size(self, data: bytes, at: int) -> int | None:
        end = data.find(b"\r\n", at)
        line = data[at:end] if end >= 0 else data[at:].removesuffix(b"\r")
        if len(line) > _SIZE_DIGITS + self._extension:
            raise ValueError("chunk extension is too long")
        found = _SIZE_LINE.fullmatch(line)
        if not found:
            if end < 0 and not line:
                return None
            raise ValueError("malformed chunk size")
        if end < 0:
            return None
        self._left = int(found[1], 16)
        if self._left > _MAX_CHUNK:
            raise ValueError("chunk size overflows")
        self.begun = True
        self._part = _Part.PAYLOAD if self._left else _Part.TRAILER
        return end + 2

    def _read_payload_end(self, data: bytes, at: int) -> int | None:
        ending = data[at : at + 2]
        if not b"\r\n".startswith(ending):
            raise ValueError("a chunk is longer than its size says")
        if len(ending) < 2:
            return None
        self._part = _Part.SIZE
        return at + 2

    def _read_trailer(self, data: bytes, at: int) -> int | None:
        if data.startswith(b"\r\n", at):
            self.done = True
            return at + 2
        end = data.find(b"\r\n\r\n", at)
        # Of an ending that has not come in whole, up to three bytes may be there.
        if (end if end >= 0 else len(data) - 3) - at > self._trailer_limit:
            raise ValueError("trailer is too long")
        if end < 0:
            if not b"\r\n".startswith(data[at : at + 2]) and re.search(rb"(?<!\r)\n", data[at:]):
                raise ValueError("malformed trailer")
            return None
        self.trailer = trailer_lines(data[at : end + 2])
        self.done = True
        return end + 4


def chunk(payload: bytes) -> bytes:
    """Return PAYLOAD as one chunk; nothing for nothing, since an empty chunk would be the last."""
    return b"%x\r\n%b\r\n" % (len(payload), payload) if payload else b""


def last_chunk(trailer: bytes) -> bytes:
    return b"0\r\n%b\r\n" % trailer if trailer else LAST_CHUNK


class RequestBody:
    """The body of one request on its way from the client to a node.

    complete: all of it was read; then `rest` is what came after it (the next request).
    ready: enough is known of it that the head may go to a node (for chunked: the first size line).
    received: octets of it that have come.
    pending: what no node has been given yet. kept: what has been given, as long as it may be sent again.
    """

    __slots__ = (
        "_keep",
        "_left",
        "_limit",
        "_reader",
        "complete",
        "kept",
        "pending",
        "ready",
        "received",
        "rest",
    )

    def __init__(self, length: int, limit: int, keep: int, reader: ChunkedReader | None) -> None:
        """LENGTH as the fields say; LIMIT and KEEP in bytes, LIMIT 0 for none; READER for chunked."""
        if limit and length > limit:
            raise BadRequest("the body is too large", 413)
        self._left = length
        self._limit = limit
        self._keep = keep
        self._reader = reader
        self.received = 0
        self.complete = False
        self.ready = reader is None
        self.rest = b""
        self.pending: list[bytes] = []
        self.kept: list[bytes] | None = []

    def feed(self, data: bytes) -> None:
        """Take DATA from the client and append it, framed for the node, to `pending`; raises BadRequest."""
        if self._reader is None:
            piece = data[: self._left]
            self._left -= len(piece)
            self.received += len(piece)
            self.complete = not self._left
            self.rest = data[len(piece) :]
        else:
            piece = self._feed_chunked(self._reader, data)
        if piece:
            self.pending.append(piece)

    def _feed_chunked(self, reader: ChunkedReader, data: bytes) -> bytes:
        try:
            payload = reader.feed(data)
        except ValueError as error:
            raise BadRequest(str(error)) from error
        self.ready = reader.begun
        self.received += len(payload)
        if self._limit and self.received > self._limit:
            raise BadRequest("the body is too large", 413)
        self.complete = reader.done
        self.rest = reader.rest
        return chunk(payload) + last_chunk(reader.trailer) if reader.done else chunk(payload)

    def take(self) -> bytes:
        """Return what is pending, for a node that is given it now."""
        piece = b"".join(self.pending)
        self.pending.clear()
        self._keep -= len(piece)
        if self._keep < 0:
            self.kept = None
        elif self.kept is not None:
            self.kept.append(piece)
        return piece

    @property
    def repeatable(self) -> bool:
        """Whether all that has been given to a node is still here."""
        return self.kept is not None

    def rewind(self) -> None:
        """Make all of it pending again, for another node; only if `repeatable`."""
        assert self.kept is not None
        self._keep += sum(map(len, self.kept))
        self.pending[:0] = self.kept
        self.kept = []
