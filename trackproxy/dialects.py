"""Dialects: what is particular to a protocol in which the server speaks first, as data.

NNTP (RFC 3977) and SMTP (RFC 5321) differ in the codes of their greetings, in the line that refuses, in what
a probe says, and in which replies are followed by more. `tcp` has none of it: it is forwarded blindly.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Reason(Enum):
    """Why a client is sent away, or its session ended, by the proxy itself."""

    UNAVAILABLE = "no node is available"
    CROWDED = "too many connections"
    LEAVING = "the session was ended"
    IDLE = "nothing was said for too long"


@dataclass(frozen=True, slots=True)
class Exchange:
    """One step of a probe: the line to send, and the codes of a good reply. {name}: who asks."""

    line: str
    codes: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class Dialect:
    """One protocol.

    port, tls_port: where nodes are reached unless told otherwise; 0 is nowhere.
    idle_s: how long a session may be silent unless told otherwise.
    greetings: codes that welcome a client; empty if the server does not speak first.
    lines: what clients are told, by reason, without the line's end; {name} is the service's.
    script: what a probe says after the greeting; the last step is the farewell.
    continued: a reply may have several lines, all but the last with "-" after the code (RFC 5321, 4.2.1).
    blocks: codes after which a block of lines follows, up to a "." alone (RFC 3977, 3.1.1).
    takes: codes after which the client sends such a block. prompts: after which it sends one more line.
    plain: good replies after which the client says its next command. opaque: after which nothing can be read.
    special: what needs a closer look: blocks, takes, prompts and opaque.
    """

    port: int = 0
    tls_port: int = 0
    idle_s: float = 3600.0
    greetings: frozenset[bytes] = frozenset()
    lines: tuple[tuple[Reason, str], ...] = ()
    script: tuple[Exchange, ...] = ()
    continued: bool = False
    blocks: frozenset[bytes] = frozenset()
    takes: frozenset[bytes] = frozenset()
    prompts: frozenset[bytes] = frozenset()
    plain: frozenset[bytes] = frozenset()
    opaque: frozenset[bytes] = frozenset()
    special: frozenset[bytes] = field(init=False)

    def __post_init__(self) -> None:
        special = self.blocks | self.takes | self.prompts | self.opaque
        object.__setattr__(self, "special", special)

    @property
    def speaks_first(self) -> bool:
        """Whether the server greets its clients."""
        return bool(self.greetings)

    def line(self, reason: Reason, name: str) -> bytes:
        """Return what a client of the service NAME is told; nothing if the protocol has no words for it."""
        text = dict(self.lines).get(reason)
        return b"" if text is None else text.format(name=name).encode() + b"\r\n"


def _codes(text: str) -> frozenset[bytes]:
    return frozenset(text.encode().split())


NNTP = Dialect(
    port=119,
    tls_port=563,
    idle_s=35 * 60.0,  # RFC 3977, 3.1: 3 minutes at least; INN's own limit is 30
    greetings=_codes("200 201"),
    lines=(  # RFC 3977, 3.2.1: 400 says that the connection is closed
        (Reason.UNAVAILABLE, "400 {name} service temporarily unavailable"),
        (Reason.CROWDED, "400 {name} too many connections, try again later"),
        (Reason.LEAVING, "400 {name} service discontinued, connect again"),
        (Reason.IDLE, "400 {name} idle for too long"),
    ),
    # Servers older than RFC 3977 may not know DATE.
    script=(Exchange("DATE", _codes("111 500")), Exchange("QUIT", _codes("205"))),
    blocks=_codes("100 101 215 220 221 222 224 225 230 231 282"),
    takes=_codes("335 340"),
    prompts=_codes("381 383"),
    plain=_codes("111 200 201 205 211 223 235 238 239 240 281 283 290"),
    opaque=_codes("206 382"),  # COMPRESS, STARTTLS
)

SMTP = Dialect(
    port=25,
    tls_port=465,
    idle_s=15 * 60.0,  # RFC 5321, 4.5.3.2: clients wait up to 10 minutes
    greetings=_codes("220"),
    lines=(  # RFC 5321, 3.8 and 4.2.3
        (Reason.UNAVAILABLE, "421 {name} Service not available, closing transmission channel"),
        (Reason.CROWDED, "421 {name} Too many connections, try again later"),
        (Reason.LEAVING, "421 {name} Service not available, closing transmission channel"),
        (Reason.IDLE, "421 {name} Timeout, closing transmission channel"),
    ),
    script=(Exchange("EHLO {name}", _codes("250")), Exchange("QUIT", _codes("221"))),
    continued=True,
    takes=_codes("354"),
    prompts=_codes("334"),
    opaque=_codes("220"),  # to STARTTLS
)

DIALECTS = {"nntp": NNTP, "smtp": SMTP, "tcp": Dialect()}
