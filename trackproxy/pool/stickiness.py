"""Stickiness: the token in a cookie by which a client finds its node again.

A token says which node its client belongs to, when the client came and when it was last seen. It names no
node: whoever reads it learns neither names nor how many there are. Promise: nobody without the secret can
make one, nor change one, and no text but the one we issued is taken for it.

    node id     9 octets   keyed blake2b of the node's name
    started     4 octets   seconds since 1970, big-endian, until 2106
    seen        4 octets   the same
    signature  13 octets   keyed blake2b of all before

in base64url without padding: 40 characters. The two keys are derived from one secret. The first secret signs,
and all are read, so that one is replaced by putting another before it and removing it a lifetime later.

Clients send the same token many times, so what was verified is remembered: a repeated token costs one
look-up. Memory is bounded, and what was forged takes no part of it.
"""

from __future__ import annotations

import hmac
import struct
from binascii import Error, a2b_base64, b2a_base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b
from math import inf

MEMO_ENTRIES = 4096
AHEAD_S = 300  # by how much the clocks of several balancers may differ

ID_BYTES, SIGNATURE_BYTES = 9, 13
_PAYLOAD = struct.Struct(f">{ID_BYTES}sII")
TOKEN_BYTES = (_PAYLOAD.size + SIGNATURE_BYTES) * 4 // 3

# RFC 4648, 5. In what is read "+" and "/" become something that is in no alphabet.
_TO_URL = bytes.maketrans(b"+/", b"-_")
_FROM_URL = bytes.maketrans(b"-_+/", b"+/!!")


@dataclass(frozen=True, slots=True)
class Pass:
    """What a good token says: its client belongs to NODE.

    started_s, seen_s: when the client came, and when this token was made; seconds since 1970.
    old: signed with a secret that is on its way out.
    """

    node: str
    started_s: int
    seen_s: int
    old: bool = False


class Flaw(Enum):
    """Why a token gives no node."""

    FORGED = "forged"  # not ours, damaged, of a secret that was removed, or from the future
    EXPIRED = "expired"  # it was ours; its idle time or its lifetime is over
    UNKNOWN = "unknown"  # it is ours, and its node is no longer configured


class _Key:
    """What one secret is good for: the ids of the nodes, and signatures."""

    def __init__(self, secret: str, nodes: Sequence[str]) -> None:
        for_ids, for_signatures = (
            blake2b(secret.encode(), person=person).digest() for person in (b"sticky node", b"sticky token")
        )
        self.ids = {
            node: blake2b(b"node" + node.encode(), digest_size=ID_BYTES, key=for_ids).digest()
            for node in nodes
        }
        self.nodes = {id_: node for node, id_ in self.ids.items()}
        self._keyed = blake2b(digest_size=SIGNATURE_BYTES, key=for_signatures)

    def sign(self, payload: bytes) -> bytes:
        """Return the signature of PAYLOAD."""
        keyed = self._keyed.copy()
        keyed.update(payload)
        return keyed.digest()


class Tokens:
    """Makes and reads the tokens of one service."""

    def __init__(
        self, secrets: Sequence[str], nodes: Iterable[str], idle_s: float, lifetime_s: float
    ) -> None:
        """SECRETS: at least one; the first one signs. NODES: names of those that may be meant.

        A token is good for IDLE_S after it was made, and LIFETIME_S after its client came; seconds, 0 is no
        limit.
        """
        assert secrets
        names = list(nodes)
        self._keys = [_Key(secret, names) for secret in secrets]
        self._idle_s = idle_s or inf
        self._lifetime_s = lifetime_s or inf
        self._known: dict[bytes, Pass] = {}  # the node's name is empty if it is not configured

    def make(self, node: str, now_s: int, started_s: int | None = None) -> bytes:
        """Return a token of 40 octets for NODE, made at NOW_S; raises KeyError if NODE is none of ours.

        started_s: that of the client's last token, if its lifetime is to go on; without it a new one begins.
        Times are seconds since 1970.
        """
        key = self._keys[0]
        payload = _PAYLOAD.pack(key.ids[node], now_s if started_s is None else started_s, now_s)
        return b2a_base64(payload + key.sign(payload), newline=False).translate(_TO_URL)

    def read(self, value: bytes, now_s: int) -> Pass | Flaw:
        """Return what VALUE says at NOW_S, seconds since 1970, or the first thing that is wrong with it."""
        found = self._known.get(value)
        if found is None:
            found = self._verified(value)
            if found is None:
                return Flaw.FORGED
            if len(self._known) >= MEMO_ENTRIES:
                self._known.clear()
            self._known[value] = found
        idle_s, life_s = now_s - found.seen_s, now_s - found.started_s
        if idle_s < -AHEAD_S or life_s < -AHEAD_S:
            return Flaw.FORGED
        if idle_s > self._idle_s or life_s > self._lifetime_s:
            return Flaw.EXPIRED
        return found if found.node else Flaw.UNKNOWN

    def due(self, pass_: Pass, now_s: int) -> bool:
        """Tell whether the client is to get a new token at NOW_S, with `started_s` of the old one.

        That is so if its secret is old, or if more than a tenth of its idle time has gone by: a client that
        keeps coming does not expire, and most answers need no cookie.
        """
        return pass_.old or now_s - pass_.seen_s > self._idle_s / 10

    def _verified(self, value: bytes) -> Pass | None:
        """Return what VALUE says, whenever that was, or None if none of our secrets has signed it."""
        if len(value) != TOKEN_BYTES:
            return None
        try:
            token = a2b_base64(value.translate(_FROM_URL), strict_mode=True)
        except Error:
            return None
        payload, signature = token[:-SIGNATURE_BYTES], token[-SIGNATURE_BYTES:]
        for key in self._keys:
            if hmac.compare_digest(key.sign(payload), signature):
                id_, started_s, seen_s = _PAYLOAD.unpack(payload)
                return Pass(key.nodes.get(id_, ""), started_s, seen_s, key is not self._keys[0])
        return None
