"""One client connection, from top to bottom: read a head, hand it over, pass its body on, wait, repeat.

One request at a time is on its way; what a client sends ahead (pipelining) waits in `_buffer`, and the
client is no longer read once that has PIPELINED_BYTES. What `deadline` stands for follows from the
state: see `expire`. The answer is written by the upstream connection that serves the request.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, cast

from trackproxy.access.names import UNANSWERED, End, Phase
from trackproxy.addresses import number_of, plain_host
from trackproxy.clock import NEVER
from trackproxy.errors import BadRequest
from trackproxy.http.answers import CONTINUE
from trackproxy.http.heads import (
    CLOSE,
    HEAD_END,
    Request,
    check_beginning,
    check_size,
    read_request,
    without_empty_lines,
)
from trackproxy.http.identity import UNKNOWN, Connection, client_behind, full_lines, plain_lines
from trackproxy.sockets.secure import SecureTransport, untaken
from trackproxy.tunnel import reset

if TYPE_CHECKING:
    from trackproxy.http.access import Client
    from trackproxy.http.framing import RequestBody
    from trackproxy.http.service import Service
    from trackproxy.http.upstream import Upstream
    from trackproxy.proxy_protocol import ProxyHeader

PIPELINED_BYTES = 64 * 1024
READ_BYTES = 64 * 1024


class Edge(asyncio.BaseProtocol):
    """The protocol of one client connection.

    host: the client's address, empty without one. client: a number for it, for policies that look at it.
    trusted: the peer is a proxy that says who its clients are. held: for `Quotas.leave`. began: it was
    opened. request: the one on its way. upstream: the node connection that serves it. stalled: the client
    takes no more for now. met: what the access log tells of it. end: why we break it.
    """

    __slots__ = (
        "_body_due",
        "_buffer",
        "_connection",
        "_half_closed",
        "_held",
        "_held_at",
        "_own",
        "_patience",
        "_plain_lines",
        "_said",
        "_told",
        "_unsent",
        "began",
        "client",
        "deadline",
        "end",
        "held",
        "host",
        "met",
        "request",
        "service",
        "stalled",
        "tls",
        "transport",
        "trusted",
        "upstream",
    )

    transport: asyncio.Transport
    met: Client  # only with an access log

    def __init__(
        self,
        service: Service,
        said: ProxyHeader | None = None,
        tls: bool = False,
        held: tuple[int, ...] = (),
    ) -> None:
        """SAID: what a trusted proxy says of it. HELD: the limits under which it counts already."""
        self.service = service
        self.tls = tls
        self.held = held
        self.host = ""
        self.began = False
        self.end: End | None = None
        self._said = said
        self._told: bytes | None = None
        self.request: Request | None = None
        self.upstream: Upstream | None = None
        self.stalled = False
        self.client = 0
        self.trusted = False
        self.deadline = NEVER
        self._buffer = b""
        self._half_closed = False
        self._held = False  # reading is paused
        self._held_at = 0.0
        self._body_due = NEVER  # by then a body that comes slowly has to have come further
        self._unsent = 0
        self._patience = NEVER

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, SecureTransport(transport) if self.tls else transport)
        service = self.service
        self.deadline = service.sweep.now + service.timeouts.head  # handshakes have a deadline of their own
        peer = transport.get_extra_info("peername")
        own = transport.get_extra_info("sockname")
        if self._said is not None and self._said.source is not None:
            peer, own = self._said.source, self._said.destination or own
        by_ip = isinstance(peer, tuple)
        self.began = True
        self._own = own
        if by_ip:
            self.host = plain_host(peer[0])
            self.trusted = service.trust.trusts(self.host)
            if service.looks_at_clients:
                self.client = number_of(self.host)
        scheme = b"https" if self.tls else b"http"
        port = own[1] if by_ip else 0
        self._connection = Connection(self.host.encode() if by_ip else UNKNOWN, port, scheme)
        # None: the lines differ from request to request.
        plain = not self.trusted and not service.settings.forwarded
        self._plain_lines = (
            plain_lines(self._connection, service.settings.via, service.ids) if plain else None
        )
        if service.access is not None:
            self.met = service.access.met(self, peer)
        service.opened(self)

    # --- what the client sends ---

    def data_received(self, data: bytes) -> None:
        """Begin with the request whose head is at the start of DATA, as soon as that is complete."""
        if self.request is not None or self.stalled:
            self._take_more(data)
            return
        checked = len(self._buffer)
        data = self._buffer + data
        service = self.service
        try:
            line_end = data.find(b"\r\n")
            if not line_end:
                data, checked = without_empty_lines(data), 0
                line_end = data.find(b"\r\n")
            end = data.find(HEAD_END)
            if end < 0:
                self._await_head(data, checked)
                return
            if end > service.checked_size:
                check_size(data, end, service.limits)
            request = read_request(data[:line_end], data[line_end + 2 : end + 2], service.reader)
            fields = request.fields
            if fields.count > service.max_fields:
                raise BadRequest("too many fields", 431)
            self.deadline = NEVER
            self._buffer = data[end + 4 :]
            if fields.plain:
                self.request = request
                service.dispatch(self, request)
            else:
                self._begin_body(request)
        except BadRequest as refusal:
            self.refuse(refusal, data)

    def _await_head(self, data: bytes, checked: int) -> None:
        if self._half_closed:
            self.close()
            return
        check_beginning(data, checked, self.service.limits)
        if not self._buffer:
            self.deadline = self.service.sweep.now + self.service.timeouts.head
        self._buffer = data or b"\r\n"  # an empty line begins a head, too: it must not gain time

    def _begin_body(self, request: Request) -> None:
        """Take what is there of the body, before a node gets the head: it may still be refused."""
        fields, data = request.fields, self._buffer
        request.began = monotonic()
        if fields.length:
            request.body = self.service.new_body(fields.length)
            if self.service.limits.body_rate:
                self._body_due = self.service.sweep.now + self.service.timeouts.body
            self._buffer = b""
            self._feed(request, request.body, data)
        if fields.expects and not data:  # RFC 9110, 10.1.1: answered here, so that a node never sees it
            self.transport.write(CONTINUE)
        self.request = request
        self._go_on(request)

    def _take_more(self, data: bytes) -> None:
        """Take what comes while a request is on its way: more of its body, or what follows it."""
        request = self.request
        body = None if request is None else request.body
        if request is None or body is None or request.complete:
            self._buffer += data
            if len(self._buffer) > PIPELINED_BYTES:
                self.hold()
            return
        try:
            self._feed(request, body, data)
        except BadRequest as refusal:
            self.abandon(refusal)
            return
        self._go_on(request)

    def _feed(self, request: Request, body: RequestBody, data: bytes) -> None:
        """Give DATA to the body; what comes after its end is the next request. Raises BadRequest."""
        body.feed(data)
        if self._body_due != NEVER:
            self._body_due += len(data) / self.service.limits.body_rate
        request.complete = body.complete
        if body.complete:
            request.receive_s = monotonic() - request.began
            self._buffer = body.rest

    def _go_on(self, request: Request) -> None:
        """Hand over the request, or more of its body, as far as that can be done now."""
        body = request.body
        self.watch()
        if not request.dispatched:
            if body is None or body.ready:
                self.service.dispatch(self, request)
        elif self.upstream is not None:
            self.upstream.send_body()
        if self.request is request and not request.complete and request.dispatched and self.upstream is None:
            self.hold()  # nobody to give it to yet

    def watch(self) -> None:
        """Set the deadline that follows from what is waited for now, unless it is the client's reading."""
        request = self.request
        if self.stalled or (request is not None and request.waiting):  # these have deadlines of their own
            return
        now, timeouts = self.service.sweep.now, self.service.timeouts
        if request is None:
            self.deadline = now + self.service.idle_s
        elif not request.complete and not self._held and not request.answered:
            self.deadline = min(now + timeouts.body, self._body_due)
        elif self._half_closed and not request.answered:
            self.deadline = now + timeouts.client_gone
        else:
            self.deadline = NEVER  # the node's turn

    # --- what nodes are told ---

    def head_for_node(self, request: Request) -> bytes:
        """Return the head of REQUEST as a node gets it; the same bytes for every try."""
        fields, ids = request.fields, self.service.ids
        if (
            self._plain_lines
            and request.host is fields.host
            and fields.usual
            and not (request.one_zero or request.tag)
        ):
            return b"".join((request.line, fields.usual, self._plain_lines, b"%016x\r\n\r\n" % ids.next()))
        host = request.host
        if host is None:  # HTTP/1.0: sites are told apart by the address that the client reached
            host = self.own_authority()
        named = fields.named if self.trusted else {}
        via = b"1.%d %b" % (not request.one_zero, self.service.settings.via.encode())
        lines = full_lines(
            self._connection,
            host,
            named,
            via,
            ids.make(),
            self.service.settings.forwarded,
            forwarded_for=self._told if self.trusted else None,
        )
        if request.tag:
            lines += b"X-Trackproxy-Agent: %b\r\n" % request.tag
        return b"%b\r\nHost: %b\r\n%b%b%b\r\n" % (request.line, host, fields.forward, lines, fields.framing)

    def resolve(self, request: Request) -> None:
        """The peer is a trusted proxy: find out who is behind it, for this request."""
        named = request.fields.named.get
        peer = self._connection.peer.decode()
        self.host, self._told = client_behind(peer, named(b"x-forwarded-for"), self.service.trust)
        self.client = number_of(self.host)

    def is_secure(self, request: Request) -> bool:
        """Whether the client of REQUEST speaks TLS, as far as is known."""
        if self.trusted and (said := request.fields.named.get(b"x-forwarded-proto")):
            return said.partition(b",")[0].strip().lower() == b"https"  # the first proxy's word
        return self.tls

    def own_authority(self) -> bytes:
        """Return the authority that the client reached, for one that did not name any."""
        return self.service.own_authority(self._own, self.tls)

    # --- the end of a request ---

    def answered(self) -> None:
        """The whole answer has been written: go on with the next request, or close."""
        request = self.request
        assert request is not None
        self.request = self.upstream = None
        if not request.complete or (request.ending is CLOSE and self._buffer):
            self.linger()  # RFC 9112, 9.6: the client is still sending
        elif request.ending is CLOSE or (self._half_closed and not self._buffer):
            self.close()
        else:
            if self.stalled:
                return  # `resume_writing` goes on
            self.deadline = self.service.sweep.now + self.service.idle_s
            if self._held:
                self.release()
            if self._buffer:
                self.service.loop.call_soon(self._read_next)

    def _read_next(self) -> None:
        """Go on with what the client sent ahead, unless it does not even take what it asked for."""
        if self.request is None and self._buffer and not self.stalled and not self.transport.is_closing():
            data, self._buffer = self._buffer, b""
            self.data_received(data)
            if self._half_closed and self.request is not None:
                self.watch()

    def refuse(self, refusal: BadRequest, said: bytes = b"") -> None:
        """Answer with the refusal's status, and close once the client had a chance to read it.

        SAID: what the client has sent, if that is no request.
        """
        self.service.count_refusal(self.request, refusal.status)
        answer = self.service.local_answer(refusal.status, str(refusal), CLOSE)
        if self.service.access is not None:
            self.service.access.refused(self, self.request, said, answer)
        self.request = self.upstream = None
        self.transport.write(answer)
        self.linger()

    def turn_away(self, status: int, reason: str) -> None:
        """The connection is one too many: say so, and close."""
        self.service.count_answer(None, status)
        answer = self.service.local_answer(status, reason, CLOSE, 1)
        if self.service.access is not None:
            self.service.access.turned_away(self, answer)
        self.transport.write(answer)
        self.linger()

    def abandon(self, refusal: BadRequest) -> None:
        """Give up the request on its way, and say why if the client has not seen another answer yet."""
        request = self.request
        assert request is not None
        if request.endpoint is not None:
            request.note(request.endpoint, str(request.status or UNANSWERED))
        self.service.forget(self, request)
        if request.answered:
            request.fails(End.CLIENT_SLOW if refusal.status == 408 else End.BAD_REQUEST, Phase.SENDING)
            self.cut()
        else:
            self.refuse(refusal)

    def cut(self) -> None:
        """End an answer that cannot be completed so that the client does not take it for whole.

        An orderly end would be the end of the body for HTTP/1.0, so that it has to be a reset.
        """
        if self.service.access is not None and self.request is not None:
            self.service.access.cut(self, self.request)
        self.request = self.upstream = None
        reset(self.transport)

    def close(self) -> None:
        """Close once everything is written; with TLS, once the client has said that it closes, too."""
        self.transport.close()
        self._await_client()

    def linger(self) -> None:
        """Hand the connection to a protocol that reads the rest of it and forgets it.

        TLS does so by itself when it closes.
        """
        if self.transport.is_closing():
            return
        if self.tls:
            self.close()
            return
        self.service.sweep.discard(self)
        self.service.linger(self)

    def retire(self, wait_s: float) -> None:
        """If nothing is on its way, end after WAIT_S: a request may just be coming, and gets its answer."""
        if self.request is None and not self._buffer and not self.stalled and not self.transport.is_closing():
            self.deadline = min(self.deadline, self.service.sweep.now + wait_s)

    def abort(self) -> None:
        self.end = End.FAILED
        self.transport.abort()

    def leave(self) -> bytes:
        """Give the connection up, for a tunnel; return what the client has sent ahead."""
        self.service.closed(self)
        self.request = self.upstream = None
        return self._buffer

    def leave_quotas(self) -> None:
        """The connection counts no more."""
        self.service.leave(self.held)
        self.held = ()

    # --- flow control ---

    def hold(self) -> None:
        """Stop reading; whoever calls it has a deadline of its own."""
        if not self._held and not self.transport.is_closing():
            self._held = True
            self._held_at = self.service.sweep.now
            self.transport.pause_reading()
            if self.request is not None and not self.request.waiting:
                self.watch()

    def release(self) -> None:
        """Read on."""
        if self._held and not self.transport.is_closing():
            self._held = False
            self._body_due += self.service.sweep.now - self._held_at  # nobody else's slowness counts
            self.transport.resume_reading()
            if self.request is not None and not self.request.waiting:
                self.watch()

    def pause_writing(self) -> None:
        self.stalled = True
        self._await_client()
        if self.upstream is not None:
            self.upstream.hold()

    def resume_writing(self) -> None:
        self.stalled = False
        self.watch()
        if self.request is None:
            self.release()
            self._read_next()
        elif self.upstream is not None:
            self.upstream.release()

    def _await_client(self) -> None:
        """Give the client time to take what was written."""
        self._unsent = untaken(self.transport)
        self._patience = self.service.sweep.now + self.service.timeouts.write
        self._look_again()

    def _look_again(self) -> None:
        """Whoever closes is looked at more often: once all is taken, only the client's own end is missing."""
        wait_s = self.service.timeouts.linger if self.transport.is_closing() else NEVER
        self.deadline = min(self._patience, self.service.sweep.now + wait_s)

    # --- the end of the connection ---

    def expire(self) -> None:
        """The deadline has passed: which one it was follows from what the connection was doing."""
        request = self.request
        if self.stalled or self.transport.is_closing():
            self._expire_client()
        elif request is None:
            self._expire_between_requests()
        elif request.waiting:
            self.service.waited_too_long(self, request)
        elif request.answered:
            self.deadline = NEVER  # the node's turn, even if the client still owes a part of its request
        elif not request.complete:
            self.abandon(BadRequest("the body did not come in time", 408))
        else:
            self.transport.abort()  # it closed its side a while ago, and nothing has come since

    def _expire_client(self) -> None:
        if untaken(self.transport) < self._unsent:
            self._await_client()  # slow, but it reads
        elif self.service.sweep.now >= self._patience or not self.transport.get_write_buffer_size():
            self.end = End.CLIENT_SLOW
            self.transport.abort()
        else:
            self._look_again()

    def _expire_between_requests(self) -> None:
        if self._buffer.strip(b"\r\n"):
            self.refuse(BadRequest("the head did not come in time", 408), self._buffer)
        else:
            self.close()

    def eof_received(self) -> bool:
        """The client has sent its last byte; a request that is complete still gets its answer."""
        request = self.request
        if self.tls:  # it is closed on both sides at once: nobody would get the rest of an answer
            self._give_up()
            self.close()
            return False
        if not self._buffer if request is None else not request.complete:
            return False
        self._half_closed = True
        if request is None:
            self.service.loop.call_soon(self._read_next)  # what was sent ahead, if it is whole
        elif not request.waiting:
            self.watch()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.service.closed(self)
        self.leave_quotas()
        self._give_up()

    def _give_up(self) -> None:
        """Nobody waits for answers any more."""
        request = self.request
        if request is not None:
            if self.service.access is not None:
                self.service.access.gone(self, request)
            self.service.forget(self, request)
            self.request = self.upstream = None
        self._buffer = b""


_READ = memoryview(bytearray(READ_BYTES))


class SecureEdge(Edge):
    """The same with TLS: what a client sends is decrypted into memory that all connections share.

    Otherwise the loop would ask for 256 KiB more for each piece, to give most of it back.
    """

    __slots__ = ()

    def get_buffer(self, sizehint: int) -> memoryview:
        return _READ

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(_READ[:nbytes].tobytes())
