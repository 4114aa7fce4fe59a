"""Dialogues: whether a session is between two commands, so that a farewell of ours would be understood.

Promise: `between_commands` is True only if every command of the client has had its whole reply, and the
client owes nothing: no article, no message, no answer to a challenge. In doubt it is False, for good. The
trick: commands are lines and replies begin with codes, so counting both is enough. What takes the certainty
away: bytes that go by unseen (bulk goes through pipes) or cannot be read (TLS after STARTTLS, compression),
replies that are not known, and NNTP commands sent before the reply to the last one.
"""

from __future__ import annotations

import re

from trackproxy.dialects import Dialect

BLOCK_END = b"\r\n.\r\n"  # RFC 3977, 3.1.1; RFC 5321, 4.1.1.4
_REPLY = re.compile(rb"^([1-5][0-9][0-9])(?: [^\n]*)?\r?$", re.MULTILINE)  # the last line of one
_MORE = re.compile(rb"^[1-5][0-9][0-9]-[^\n]*$", re.MULTILINE)  # a line before that


class Dialogue:
    """What is known of one session of DIALECT; it begins after a good greeting.

    Call `asked` with what the client sends and `answered` with what the node does, in the order in which they
    come, and `unseen` when bytes go by.
    """

    __slots__ = ("_asking", "_blind", "_dialect", "_listing", "_open", "_owed", "_tail", "_taking")

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._owed = 0  # replies
        self._asking = False  # the client has sent a part of a line, or is to send one that is no command
        self._taking = False  # the client sends a block
        self._open = False  # the node sends one
        self._tail = b""  # the last bytes of that block
        self._listing = False  # the last command may have been LISTGROUP, whose 211 a block follows
        self._blind = False  # nothing is certain any more

    @property
    def between_commands(self) -> bool:
        """Whether a line of ours would be taken for what it is."""
        return not (self._owed or self._asking or self._taking or self._open or self._blind)

    def unseen(self) -> None:
        """Bytes of the node, or of the client, go by."""
        self._blind = True

    def asked(self, said: bytes) -> None:
        """Take what the client sent."""
        if self._taking:
            if self._ends_block(said):
                self._taking = False
                self._owed = 1
            return
        lines = said.count(b"\n")
        self._owed += lines
        in_pieces, self._asking = self._asking, not lines or said[-1] != 10
        if self._dialect.continued:
            if said[:4].upper() == b"BDAT" or (lines > 1 and b"\nBDAT" in said.upper()):
                self._blind = True  # RFC 3030: what follows is no command
        else:
            if self._owed > 1:
                self._blind = True
            self._listing = in_pieces or said[:9].upper() == b"LISTGROUP"

    def answered(self, said: bytes) -> None:
        """Take what the node sent."""
        if self._open:
            if self._ends_block(said):
                self._open = False
                self._owed -= 1
        elif self._owed < 1 or self._taking:
            self._blind = True
        elif (
            said.find(b"\n") != len(said) - 1
            or said[:3] in self._dialect.special
            or said[3:4] != b" "
            or self._listing
        ):
            self._answered_specially(said)
        elif said[:3].isdigit() and (said[:1] in b"45" or self._is_plain(said[:3])):
            self._owed -= 1
        else:
            self._blind = True

    def _is_plain(self, code: bytes) -> bool:
        """Whether nothing follows a reply with CODE, which is no error."""
        return code[:1] == b"2" if self._dialect.continued else code in self._dialect.plain

    def _answered_specially(self, said: bytes) -> None:
        if self._dialect.continued:
            self._take_replies(said)
        else:
            self._take_reply(said)

    def _take_replies(self, said: bytes) -> None:
        """SMTP: take lines of one or several replies (RFC 5321, 4.2.1)."""
        dialect = self._dialect
        codes = _REPLY.findall(said)
        lines = len(codes) + len(_MORE.findall(said))
        last = codes[-1] if codes else b""
        *before, _ = codes or [b""]
        self._owed -= len(codes)
        strange = any(code[:1] == b"3" for code in before) or (
            last[:1] == b"3" and last not in dialect.special
        )
        if lines != said.count(b"\n") or not said.endswith(b"\n") or self._owed < 0 or strange:
            self._blind = True
        if not dialect.opaque.isdisjoint(codes):
            self._blind = True
        self._begin(last)

    def _take_reply(self, said: bytes) -> None:
        """NNTP: take one line, and what follows it if it announces a block (RFC 3977, 3.1.1)."""
        dialect, code, size = self._dialect, said[:3], said.find(b"\n") + 1
        if size and (code in dialect.blocks or (code == b"211" and self._listing)):
            self._open, self._tail = True, b"\r\n"
            self.answered(said[size:])
            return
        self._owed -= 1
        known = code in dialect.special or code in dialect.plain or code[:1] in (b"4", b"5")
        if size != len(said) or not known or code in dialect.opaque:
            self._blind = True
        self._begin(code)

    def _begin(self, code: bytes) -> None:
        """Begin what follows a reply with CODE."""
        self._taking = code in self._dialect.takes
        self._tail = b"\r\n"
        self._asking = self._asking or code in self._dialect.prompts

    def _ends_block(self, said: bytes) -> bool:
        """Take more of a block; return whether that was its end. What comes behind it is not understood."""
        joined = self._tail + said
        end = joined.find(BLOCK_END)
        self._tail = joined[-len(BLOCK_END) + 1 :]
        if end < 0:
            return False
        if end + len(BLOCK_END) != len(joined):
            self._blind = True
        return True
