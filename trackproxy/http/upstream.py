"""One node connection, from top to bottom: send a request, read its answer, wait for the next one.

The answer goes straight to the client's transport. A connection is used again only after an answer that
was complete, asked for nothing else, and left no byte over; anything else ends it. One class from the head to
the end, although it is long: each call per request is measured to cost.
"""

from __future__ import annotations

from bisect import bisect_left
from time import monotonic
from typing import TYPE_CHECKING

from trackproxy.access.names import End
from trackproxy.board import BUCKETS_S, Counter
from trackproxy.clock import NEVER
from trackproxy.errors import BadAnswer
from trackproxy.http.answer_body import AnswerBody
from trackproxy.http.cookies import without_cookies
from trackproxy.http.fields import switch_lines
from trackproxy.http.flow import NodeFlow
from trackproxy.http.heads import CLOSE, HEAD_END, Answer, Request, read_answer, seen_answers
from trackproxy.http.retry import Failure

# As plain numbers: they are read for every answer.
CLASSES = int(Counter.STATUS_1XX) - 1
WHOLE, WHOLE_SUM_US = int(Counter.WHOLE), int(Counter.WHOLE_SUM_US)
FIRST_BYTE, FIRST_BYTE_SUM_US = int(Counter.FIRST_BYTE), int(Counter.FIRST_BYTE_SUM_US)
DURATION, DURATION_SUM_US = int(Counter.DURATION), int(Counter.DURATION_SUM_US)

if TYPE_CHECKING:
    from trackproxy.http.channel import Channel
    from trackproxy.http.edge import Edge


class Upstream(NodeFlow):
    """The protocol of one node connection.

    edge, request: what it serves; None while idle. used: it has served a request before this one.
    """

    __slots__ = (
        "_body",
        "_buffer",
        "_cells",
        "_channel",
        "_interim",
        "_outlier",
        "_reusable",
        "_sent",
        "request",
        "used",
    )

    def __init__(self, channel: Channel) -> None:
        super().__init__(channel.service)
        self._channel = channel
        self._cells = channel.cells
        self._outlier = channel.outlier
        self.request: Request | None = None
        self.used = False
        self._body: AnswerBody | None = None  # of the answer, once its head has gone to the client
        self._buffer = b""
        self._interim = 0
        self._reusable = False

    # --- the request ---

    def send(self, edge: Edge, request: Request) -> None:
        """Send the head of REQUEST and what is there of its body; the rest comes by `send_body`."""
        self.edge = edge
        self.request = request
        edge.upstream = self
        self._sent = monotonic()
        head = request.head = request.head or edge.head_for_node(request)
        body = request.body
        if body is None:
            self.transport.write(head)
            self.deadline = self._service.sweep.now + request.route.response_head_s
        else:
            self.transport.write(head + body.take())
            self._await_answer()
            if not self._stalled:
                edge.release()
        if edge.stalled:
            self.hold()  # what it got before fills its buffer: nobody would tell us

    def send_body(self) -> None:
        """Pass on what has come of the body since."""
        request = self.request
        assert request is not None
        assert request.body is not None
        if request.body.pending:
            self.transport.write(request.body.take())
        if self._body is None:
            self._await_answer()

    def _await_answer(self) -> None:
        """Give the node its time, once it has got everything that it waits for."""
        request = self.request
        if self._stalled:
            return
        now = self._service.sweep.now
        if request is not None and self._body is not None:
            self.deadline = now + request.route.response_s
        elif request is not None and request.complete:
            self.deadline = now + request.route.response_head_s
        else:
            self.deadline = NEVER

    # --- the answer ---

    def data_received(self, data: bytes) -> None:
        if self._body is not None:
            self._relay(self._body, data)
            return
        if self.request is None:
            self._drop()  # a node does not speak unasked
            return
        if self._buffer:
            data = self._buffer + data
        end = data.find(HEAD_END)
        if end < 0 or end > self._service.max_head:
            self._await_head(data)
            return
        head = data[: end + 2]
        try:
            answer = seen_answers.get(head) or read_answer(head)
        except BadAnswer as error:
            self._fail(Failure.MALFORMED, str(error))
            return
        if answer.status < 200:
            self._take_interim(answer, data[end + 4 :])
        else:
            self._take_answer(answer, data[end + 4 :])

    def _take_answer(self, answer: Answer, body: bytes) -> None:
        """Pass the head on, with all that is there of the body."""
        edge, request = self.edge, self.request
        assert edge is not None
        assert request is not None
        # A node that answered early may not have read all of the request: what is left would be its next one.
        self._reusable = answer.reusable and request.complete
        if answer.fields.idle_s is not None:
            self._channel.learn(answer.fields.idle_s)
        length = 0 if request.method == b"HEAD" else answer.length
        if answer.status >= 500 and self._ask_elsewhere(edge, request, answer, length == len(body)):
            return
        if not request.complete or self._service.draining:
            request.ending = CLOSE  # RFC 9112, 9.3 and 9.6: an early answer ends the connection
        head = self._head_of(answer) if answer.fields.cookies else answer.head
        sticking, endpoint = request.route.sticking, self._channel.endpoint
        if sticking is not None and not (request.fresh and request.owner is endpoint):
            request.extra += sticking.answered(edge, request, endpoint, answer)
        if answer.status < 500 and (self._outlier.failures or request.doubted):
            request.route.second_tries.answered_well(request, self._channel.endpoint)
        self._cells[CLASSES + answer.family] += 1
        request.route.answers[request.method][answer.family] += 1
        if 0 <= length <= len(body):
            took_s = self._count_time(WHOLE, WHOLE_SUM_US)
            access = self._service.access
            if access is not None:
                access.whole(edge, request, endpoint, answer.status, length, self._sent, took_s)
            edge.transport.write(b"".join((head, request.extra, request.ending, body[:length])))
            self._finish(clean=length == len(body))
        else:
            request.status = answer.status
            self._begin_relay(head, length, body)

    def _begin_relay(self, head: bytes, length: int, body: bytes) -> None:
        """Pass HEAD on, with what is there of a body that is not complete yet."""
        edge, request = self.edge, self.request
        assert edge is not None
        assert request is not None
        relayed = self._body = AnswerBody(length, request.one_zero, self._service.limits)
        if relayed.closing:
            request.ending = CLOSE
        request.began = request.began or self._sent
        request.first_byte_s = self._count_time(FIRST_BYTE, FIRST_BYTE_SUM_US)
        request.answered = True
        self._buffer = b""
        self.deadline = self._service.sweep.now + request.route.response_s
        edge.transport.write(b"%b%b%b%b" % (head, relayed.framing, request.extra, request.ending))
        if body:
            self._relay(relayed, body)

    def _head_of(self, answer: Answer) -> bytes:
        """Return the head of ANSWER without the cookies of ours, which no node may set."""
        names = self._service.cookie_names
        return without_cookies(answer.head, names) if names else answer.head

    def _ask_elsewhere(self, edge: Edge, request: Request, answer: Answer, whole: bool) -> bool:
        """Keep an error from the client if another endpoint may do better; return whether one is asked."""
        edge.upstream = None
        request.began = request.began or self._sent
        if not request.route.second_tries.asks_elsewhere(edge, request, answer.status):
            edge.upstream = self
            return False
        self._cells[CLASSES + answer.family] += 1
        self._count_time(WHOLE, WHOLE_SUM_US)
        self.edge = self.request = None
        self._part(request, clean=whole)
        return True

    def _count_time(self, histogram: int, sum_us: int) -> float:
        """Count the time since the request was sent, and return it in seconds."""
        took_s = monotonic() - self._sent
        self._cells[histogram + bisect_left(BUCKETS_S, took_s)] += 1
        self._cells[sum_us] += int(took_s * 1e6)
        return took_s

    def _await_head(self, data: bytes) -> None:
        if len(data) > self._service.limits.head:
            self._fail(Failure.MALFORMED, "the head is too large")
        elif not b"HTTP/1.".startswith(data[:7]):
            self._fail(Failure.MALFORMED, "this is not HTTP")
        else:
            self._buffer = data

    def _take_interim(self, answer: Answer, rest: bytes) -> None:
        """Pass on a 1xx answer, or switch protocols (RFC 9110, 15.2).

        100 is for nobody: the client has had it from us.
        """
        edge, request = self.edge, self.request
        assert edge is not None
        assert request is not None
        self._buffer = b""
        self._interim += 1
        if answer.status == 101:
            self._switch(answer, rest)
            return
        if self._interim > self._service.limits.interim:
            self._fail(Failure.MALFORMED, "too many interim answers")
            return
        if answer.status != 100 and not request.one_zero:
            edge.transport.write(self._head_of(answer) + b"\r\n")
        if rest:
            self.data_received(rest)

    def _switch(self, answer: Answer, rest: bytes) -> None:
        edge, request = self.edge, self.request
        assert edge is not None
        assert request is not None
        protocol = answer.fields.upgrade
        asked = request.fields.upgrade.lower().split(b", ")
        if not protocol or protocol.lower() not in asked:
            self._fail(Failure.MALFORMED, "a switch to a protocol that nobody asked for")
            return
        if self._outlier.failures or request.doubted:
            request.route.second_tries.answered_well(request, self._channel.endpoint)
        sticking, endpoint = request.route.sticking, self._channel.endpoint
        if sticking is not None and not (request.fresh and request.owner is endpoint):
            request.extra += sticking.answered(edge, request, endpoint, answer)
        lines = request.extra + switch_lines(protocol)
        edge.transport.write(b"%b%b\r\n%b" % (self._head_of(answer), lines, rest))
        self._cells[CLASSES + answer.family] += 1
        request.route.answers[request.method][answer.family] += 1
        request.status, request.first_byte_s = answer.status, monotonic() - self._sent
        self._leave()
        self.edge = self.request = None
        self._service.open_tunnel(edge, request, self.transport)

    def _relay(self, body: AnswerBody, data: bytes) -> None:
        """Pass on a part of the body."""
        edge, request = self.edge, self.request
        assert edge is not None
        assert request is not None
        if not edge.stalled:
            self.deadline = self._service.sweep.now + request.route.response_s
        try:
            piece = body.feed(data)
        except ValueError:
            self._cut(End.NODE_MALFORMED)
            return
        if piece:
            request.passed_on += len(piece)
            edge.transport.write(piece)
        if body.done:
            self._finish(clean=body.clean)

    # --- the end of an answer ---

    def _finish(self, clean: bool) -> None:
        """The answer is complete: give everything back, then let the client's side go on."""
        edge, request = self.edge, self.request
        assert edge is not None
        assert request is not None
        if self._body is not None:
            self._count_time(DURATION, DURATION_SUM_US)
            if self._service.access is not None:
                self._service.access.relayed(edge, request, self._channel.endpoint)
        self.edge = self.request = None
        self._part(request, clean)
        self._service.release(request)
        edge.answered()

    def _part(self, request: Request, clean: bool) -> None:
        """The answer to REQUEST is done with: keep the connection, if nothing is left on it."""
        unsent = request.body is not None and self.transport.get_write_buffer_size()
        if clean and self._reusable and not unsent:
            if self._body is not None or self._buffer or self._interim:
                self._body = None
                self._buffer = b""
                self._interim = 0
            if self._held:
                self.release()
            self._channel.park(self)
        else:
            self._drop()

    def _fail(self, failure: Failure, detail: str = "") -> None:
        """No answer will come from here."""
        edge, request = self.edge, self.request
        assert edge is not None
        assert request is not None
        self.edge = self.request = edge.upstream = None
        request.began = request.began or self._sent
        self._drop()
        request.route.second_tries.failed(edge, request, failure, reused=self.used, detail=detail)

    def _cut(self, end: End) -> None:
        """The answer ended in the middle: nobody may take it for whole."""
        edge, request = self.edge, self.request
        assert edge is not None
        assert request is not None
        request.note(self._channel.endpoint, str(request.status))
        request.fails(end)
        self.edge = self.request = None
        self._drop()
        self._service.release(request)
        edge.cut()

    def give_up(self, failure: Failure) -> None:
        """The node is to answer no more: fail the request that waits for it, unless its answer has begun."""
        if self.request is not None and self._body is None:
            self._fail(failure)

    def abandon(self) -> None:
        """Nobody waits for the answer any more."""
        self.edge = self.request = None
        self._drop()

    def _drop(self) -> None:
        self._body = None
        self._channel.forget(self)
        self.transport.abort()

    # --- the end of the connection ---

    def expire(self) -> None:
        if self.request is None:
            self._drop()
        elif self._stalled and self._node_reads():
            pass  # slowly, but it does
        elif self._body is not None:
            self._cut(End.NODE_SLOW if self._stalled else End.NODE_SILENT)
        else:
            self._fail(Failure.STALLED if self._stalled else Failure.SILENT)

    def eof_received(self) -> bool:
        self._end(whole=True)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        self._channel.forget(self)
        self._end(whole=False)

    def _end(self, whole: bool) -> None:
        """The node has closed. WHOLE: by an orderly end, which is how some bodies are ended."""
        if self.request is None:
            self._drop()
            return
        if self._body is None:
            self._fail(Failure.LOST)
            return
        ending = self._body.end() if whole else None
        if ending is None:
            self._cut(End.NODE_LOST)
            return
        assert self.edge is not None
        if ending:
            self.edge.transport.write(ending)
        self._finish(clean=False)
