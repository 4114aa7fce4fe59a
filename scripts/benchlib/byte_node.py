"""A node for large bodies: `GET /bytes/N` sends N bytes, `POST` is answered with the size of its body.

Run as a program with a port. It holds one buffer per connection and never the body. The receiving side first
stands still for PAUSE_S, so that a proxy without back-pressure shows it in its memory.
"""

from __future__ import annotations

import re
import socket
import sys
import threading
import time

CHUNK_BYTES = 256 * 1024
HEAD_LIMIT_BYTES = 64 * 1024
PAUSE_S = 1.0


def read_head(connection: socket.socket) -> tuple[bytes, bytes]:
    """The head up to and including its empty line, and what came after; both empty if it broke off."""
    got = b""
    while b"\r\n\r\n" not in got:
        piece = connection.recv(16 * 1024)
        if not piece or len(got) > HEAD_LIMIT_BYTES:
            return b"", b""
        got += piece
    head, _, rest = got.partition(b"\r\n\r\n")
    return head + b"\r\n\r\n", rest


def content_length(head: bytes) -> int:
    """-1 if there is none."""
    found = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    return int(found[1]) if found else -1


def send_bytes(connection: socket.socket, count: int) -> None:
    chunk = memoryview(bytes(CHUNK_BYTES))
    while count > 0:
        connection.sendall(chunk[: min(count, CHUNK_BYTES)])
        count -= CHUNK_BYTES


def count_bytes(connection: socket.socket, wanted: int) -> int:
    """Receive and forget until `wanted` bytes or the end of the stream; return how many came."""
    buffer = memoryview(bytearray(CHUNK_BYTES))
    got = 0
    while got < wanted and (size := connection.recv_into(buffer[: min(CHUNK_BYTES, wanted - got)])):
        got += size
    return got


def _answer(connection: socket.socket) -> None:
    with connection:
        while True:
            head, rest = read_head(connection)
            if not head:
                return
            if asked := re.match(rb"GET /bytes/(\d+) ", head):
                size = int(asked[1])
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
                send_bytes(connection, size)
            elif head.startswith(b"POST") and content_length(head) < 0:
                connection.sendall(
                    b"HTTP/1.1 411 Length Required\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
                )
                return
            else:
                _take_body(connection, content_length(head), len(rest))


def _take_body(connection: socket.socket, size: int, already: int) -> None:
    if size > CHUNK_BYTES:
        time.sleep(PAUSE_S)  # stand still: what the proxy reads ahead without bound shows as memory
    got = already + count_bytes(connection, max(size, 0) - already)
    text = b"%d" % got
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))


def main() -> None:
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=128)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_answer, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()
