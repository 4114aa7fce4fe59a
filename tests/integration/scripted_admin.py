"""An admin endpoint that answers what a test wants, and writes down what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from typing import Any

DEADLINE_S = 10.0

Frames = Queue[bytes | None]


@dataclass(slots=True, eq=False)
class ScriptedAdmin:
    """answers: status and body by path, bytes as they are; frames: what each stream of events sends, in turn,
    None ends it; asked: method, target, fields and body of each request."""

    port: int = 0
    answers: dict[str, tuple[int, Any]] = field(default_factory=dict)
    frames: Frames = field(default_factory=Queue)
    asked: list[tuple[str, str, dict[str, str], str]] = field(default_factory=list)
    arrivals: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def await_requests(self, count: int) -> None:
        """Wait until so many more have come."""
        while self.arrivals.acquire(blocking=False):
            pass
        for _ in range(count):
            assert self.arrivals.acquire(timeout=DEADLINE_S)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def answer(self, path: str, tree: Any, status: int = 200) -> None:
        """Answer so from now on."""
        self.answers[path] = (status, tree)

    def refuse(self, path: str, status: int, detail: str, **more: Any) -> None:
        """Answer with a problem from now on."""
        self.answer(path, {"type": "about:blank", "status": status, "detail": detail, **more}, status)

    def send(self, *events: dict[str, Any]) -> None:
        """Send events to the stream that is open, or comes next."""
        for event in events:
            frame = f"id: {event['id']}\nevent: {event['kind']}\ndata: {json.dumps(event)}\n\n"
            self.frames.put(frame.encode())

    def end_stream(self) -> None:
        """End the stream that is open, or comes next."""
        self.frames.put(None)

    def headers_of(self, target: str) -> list[dict[str, str]]:
        """The fields of all requests for a target."""
        return [headers for _, asked, headers, _ in self.asked if asked == target]


@contextmanager
def scripted_admin(port: int = 0) -> Iterator[ScriptedAdmin]:
    """An admin endpoint on loopback inside this block."""
    script = ScriptedAdmin()
    server = ThreadingHTTPServer(("127.0.0.1", port), _handler(script))
    server.daemon_threads = True
    script.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield script
    finally:
        script.end_stream()
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(script: ScriptedAdmin) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            fields = {name.lower(): value for name, value in self.headers.items()}
            script.asked.append((self.command, self.path, fields, body))
            script.arrivals.release()
            status, tree = script.answers.get(self.path.partition("?")[0], (404, {"detail": "nothing"}))
            if fields.get("accept") == "text/event-stream" and status == 200:
                self._stream()
                return
            text = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PATCH = do_DELETE = _any

        def _stream(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            self.wfile.write(b":\n\n")
            while (frame := script.frames.get()) is not None:
                self.wfile.write(frame)

        def log_message(self, format: str, *args: Any) -> None:
            """Keep quiet."""

    return Handler
