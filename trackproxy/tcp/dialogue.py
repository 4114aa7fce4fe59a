"""Dialogues: whether a session is between two commands, so that a farewell of ours would be understood.

Promise: `between_commands` is True only if every command of the client has had its whole reply, and the
client owes nothing: no article, no message, no answer to a challenge. In doubt it is False. The trick:
commands are lines and replies begin with codes, so counting both is enough. Bytes that are not seen (bulk
goes through pipes) or that cannot be read (TLS after STARTTLS, compression) take the certainty away, for NNTP
until the client has asked again and been answered.
"""

from __future__ import annotations

import re

from trackproxy.dialects import Dialect

BLOCK_END = b"\r\n.\r\n"  # RFC 3977, 3.1.1; RFC 5321, 4.1.1.4
_LAST_LINES = re.compile(rb"^[1-5][0-9][0-9](?![-0-9])", re.MULTILINE)  # of replies that may have several


class Dialogue:
    """What is known of one session of DIALECT; it begins after a good greeting.

    Call `asked` with what the client sends and `answered` with what the node does, in the order in which they
    come, and `unseen` when bytes went by.
    """

    __slots__ = ("_asking", "_blind", "_dialect", "_open", "_owed", "_taking")

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._owed = 0  # replies
        self._asking = False  # the client has sent a part of a line, or is to send one that is no command
        self._taking = False  # the client sends a block
        self._open = False  # a reply may not be complete
        self._blind = False  # nothing can be read any more

    @property
    def between_commands(self) -> bool:
        """Whether a line of ours would be taken for what it is."""
        return not (self._owed or self._asking or self._taking or self._open or self._blind)

    def asked(self, said: bytes) -> None:
        """Take what the client sent."""
        if self._taking:
            if said.endswith(BLOCK_END) or said == b".\r\n":
                self._taking = False
                self._owed = 1
            return
        if self._open and not self._dialect.continued:
            self._open = False  # NNTP: who asks again has seen the end of the reply
            self._owed = 0
        lines = said.count(b"\n")
        self._owed += lines
        self._asking = not lines or said[-1] != 10

    def answered(self, said: bytes) -> None:
        """Take what the node sent."""
        dialect = self._dialect
        if self._open:
            self._open = not (dialect.blocks and said.endswith(BLOCK_END))
            return
        code = said[:3]
        if not code.isdigit() or self._owed < 1:
            self._blind = True
            return
        if self._taking:  # before the end of the block, as far as that was seen
            self._taking, self._owed, self._open = False, 0, True
            return
        if said.find(b"\n") != len(said) - 1 or said[3:4] == b"-":
            self._answered_at_length(code, said)
            return
        self._owed -= 1
        if code in dialect.special:
            self._open = code in dialect.blocks or code in dialect.unclear
            self._taking = code in dialect.takes
            self._asking = code in dialect.prompts
            self._blind = code in dialect.opaque

    def unseen(self) -> None:
        """Bytes of the node, or of the client, have gone by."""
        if self._taking or (self._dialect.blocks and not self._blind):
            self._taking, self._owed, self._open = False, 0, True
        else:
            self._blind = True

    def _answered_at_length(self, code: bytes, said: bytes) -> None:
        """Take several lines, or a part of one."""
        dialect = self._dialect
        if code in dialect.opaque:
            self._blind = True
            return
        if dialect.continued and said.endswith(b"\n"):
            last = _LAST_LINES.findall(said)
            self._owed -= len(last)
            self._blind = self._owed < 0
            self._open = False
            self._taking = bool(last) and last[-1] in dialect.takes
            self._asking = self._asking or (bool(last) and last[-1] in dialect.prompts)
        elif dialect.continued:
            self._blind = True
        else:
            self._owed -= 1
            self._open = not (code in dialect.blocks and said.endswith(BLOCK_END)) or self._owed > 0
