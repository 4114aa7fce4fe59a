"""What a line of an access log can tell: the names of its fields, and how requests and sessions end."""

from __future__ import annotations

from enum import Enum

# In the order of a JSON line. Times are in milliseconds, bytes are those of bodies; what there is nothing to
# say about is left out.
CLIENT_FIELDS = ("client", "client_port", "peer", "service", "tls", "cipher", "sni")
ASKED_FIELDS = ("method", "target", "request")
HEAD_FIELDS = ("protocol", "host", "referer", "agent")
ANSWER_FIELDS = ("status", "route", "node", "address", "tried", "retries", "sticky", "end", "phase")
COUNT_FIELDS = ("bytes", "bytes_in", "receive_ms", "queue_ms", "connect_ms", "first_byte_ms", "total_ms")
REQUEST_FIELDS = (
    "time",
    *CLIENT_FIELDS,
    *ASKED_FIELDS,
    *HEAD_FIELDS,
    *ANSWER_FIELDS,
    *COUNT_FIELDS,
    "request_id",
)

SESSION_FIELDS = (
    "time",
    "client",
    "client_port",
    "service",
    "tls",
    "cipher",
    "node",
    "address",
    "tried",
    "retries",
    "end",
    "phase",
    "bytes",
    "bytes_in",
    "queue_ms",
    "connect_ms",
    "greeting_ms",
    "total_ms",
)


class End(Enum):
    """How a request or a session ended, and who ended it."""

    OK = "ok"  # whole; or the session was closed in good order
    CLIENT_GONE = "client_gone"  # it closed or reset its connection before that
    CLIENT_SLOW = "client_slow"  # it did not send, or take, what it should have in time
    BAD_REQUEST = "bad_request"  # what it sent is refused
    DENIED = "denied"  # not from its network
    LIMITED = "limited"  # one too many
    REDIRECTED = "redirected"  # sent to TLS
    NO_NODE = "no_node"  # none is there that could take it
    QUEUE_FULL = "queue_full"  # every node is full, and so is the queue
    QUEUE_TIMEOUT = "queue_timeout"  # no node had room in time
    NODE_REFUSED = "node_refused"  # it takes no connection
    NODE_LOST = "node_lost"  # it closed or reset its connection too early
    NODE_SILENT = "node_silent"  # nothing came from it in time
    NODE_SLOW = "node_slow"  # it did not take in time what was sent to it
    NODE_MALFORMED = "node_malformed"  # what it sent cannot be passed on
    NODE_ERROR = "node_error"  # it said that it cannot serve
    NODE_DOWN = "node_down"  # probes say so
    TAKEN_OUT = "taken_out"  # an operator's drain or disable
    IDLE = "idle"  # nothing was said on either side for too long
    SHUTDOWN = "shutdown"  # this process ended it
    FAILED = "failed"  # an error of our own


class Phase(Enum):
    """How far it had come when somebody ended it."""

    SENDING = "sending"  # the client sends its request
    QUEUED = "queued"  # for room at a node
    CONNECTING = "connecting"  # to a node
    WAITING = "waiting"  # for a node's answer or greeting
    ANSWERING = "answering"  # the answer is on its way to the client
    RELAYING = "relaying"  # a tunnel or a session


UNANSWERED = "unanswered"  # what came of a try that nobody waited for to its end

# What says nothing against anybody but its client, and may come in floods: sampling holds for it.
USUAL_ENDS = frozenset({End.OK, End.REDIRECTED, End.BAD_REQUEST, End.DENIED, End.LIMITED})
