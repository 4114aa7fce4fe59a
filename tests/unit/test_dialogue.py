"""Dialogues: when a session is certainly between two commands.

Conversations are written as they pass on the wire, a piece each: "C: " from the client, "S: " from the node.
The properties at the end follow a model: a script of steps, whose position says where the session really is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trackproxy.dialects import NNTP, SMTP, Dialect
from trackproxy.tcp.dialogue import Dialogue

CLIENT_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n"
SERVER_HELLO = b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03\r\n"


def heard(dialect: Dialect, *pieces: str) -> Dialogue:
    """What is known after these pieces; "C: " and "S: " begin those of the client and of the node."""
    dialogue = Dialogue(dialect)
    for piece in pieces:
        said = piece[3:].encode("latin-1")
        (dialogue.asked if piece.startswith("C: ") else dialogue.answered)(said)
    return dialogue


# --- both ---


@pytest.mark.parametrize("dialect", [NNTP, SMTP], ids=["nntp", "smtp"])
def test_a_session_is_between_commands_after_the_greeting(dialect: Dialect) -> None:
    assert Dialogue(dialect).between_commands


@pytest.mark.parametrize("dialect", [NNTP, SMTP], ids=["nntp", "smtp"])
def test_a_command_that_comes_in_pieces_is_not_over_before_its_line_is(dialect: Dialect) -> None:
    dialogue = Dialogue(dialect)
    for piece in (b"Q", b"UI", b"T\r", b"\n"):
        dialogue.asked(piece)
        assert not dialogue.between_commands


@pytest.mark.parametrize(
    ("dialect", "reply"), [(NNTP, "111 20260101000000"), (SMTP, "250 ok")], ids=["nntp", "smtp"]
)
def test_a_reply_ends_the_command_that_came_in_pieces(dialect: Dialect, reply: str) -> None:
    assert heard(dialect, "C: DA", "C: TE\r", "C: \n", f"S: {reply}\r\n").between_commands


@pytest.mark.parametrize(("dialect", "reply"), [(NNTP, "111 now"), (SMTP, "250 ok")], ids=["nntp", "smtp"])
def test_a_part_of_the_next_command_keeps_the_session_busy(dialect: Dialect, reply: str) -> None:
    assert not heard(dialect, "C: NOOP\r\nNO", f"S: {reply}\r\n").between_commands


@pytest.mark.parametrize(
    ("dialect", "unasked", "more"),
    [
        (NNTP, "400 idle for too long\r\n", ("C: DATE\r\n", "S: 111 now\r\n")),
        (SMTP, "421 4.4.2 timeout\r\n", ("C: NOOP\r\n", "S: 250 ok\r\n")),
    ],
    ids=["nntp", "smtp"],
)
def test_a_reply_that_nobody_asked_for_ends_all_certainty(
    dialect: Dialect, unasked: str, more: tuple[str, ...]
) -> None:
    for count in range(len(more) + 1):
        assert not heard(dialect, f"S: {unasked}", *more[:count]).between_commands


@pytest.mark.parametrize("dialect", [NNTP, SMTP], ids=["nntp", "smtp"])
@pytest.mark.parametrize("said", ["\x16\x03\x03\r\n", "what?\r\n", "\r\n", ".\r\n", "2"])
def test_a_reply_that_cannot_be_read_is_no_reply(dialect: Dialect, said: str) -> None:
    assert not heard(dialect, "C: DATE\r\n", f"S: {said}").between_commands


@pytest.mark.parametrize(("dialect", "go"), [(NNTP, "382 go"), (SMTP, "220 go")], ids=["nntp", "smtp"])
def test_nothing_is_certain_any_more_once_tls_begins(dialect: Dialect, go: str) -> None:
    dialogue = heard(dialect, "C: STARTTLS\r\n", f"S: {go}\r\n")
    assert not dialogue.between_commands
    for _ in range(2):
        dialogue.asked(CLIENT_HELLO)
        assert not dialogue.between_commands
        dialogue.answered(SERVER_HELLO)
        assert not dialogue.between_commands
    dialogue.asked(b"DATE\r\n")  # an accident of encryption
    dialogue.answered(b"250 111\r\n")
    assert not dialogue.between_commands


@pytest.mark.parametrize(("dialect", "no"), [(NNTP, "502 no"), (SMTP, "454 no")], ids=["nntp", "smtp"])
def test_a_refused_starttls_changes_nothing(dialect: Dialect, no: str) -> None:
    assert heard(dialect, "C: STARTTLS\r\n", f"S: {no}\r\n").between_commands


# --- SMTP ---


def test_smtp_a_command_without_its_reply_keeps_the_session_busy() -> None:
    assert not heard(SMTP, "C: NOOP\r\n").between_commands
    assert heard(SMTP, "C: NOOP\r\n", "S: 250 ok\r\n").between_commands


GROUP_OF_COMMANDS = "C: MAIL FROM:<a>\r\nRCPT TO:<b>\r\nRCPT TO:<c>\r\nDATA\r\n"
MESSAGE = ("C: Subject: x\r\n\r\nbody\r\n.\r\n", "S: 250 queued\r\n")


@pytest.mark.parametrize(
    "replies",
    [
        ("S: 250 a\r\n250 b\r\n550 c\r\n354 go\r\n",),
        ("S: 250 a\r\n", "S: 250 b\r\n", "S: 550 c\r\n", "S: 354 go\r\n"),
        ("S: 250 a\r\n250 b\r\n", "S: 550 c\r\n354 go\r\n"),
        ("S: 250-a\r\n250 a\r\n250 b\r\n550-c\r\n", "S: 550 c\r\n354 go\r\n"),
    ],
    ids=["one piece", "one each", "two pieces", "lines of one reply apart"],
)
def test_smtp_pipelined_replies_are_counted_however_they_are_cut(replies: tuple[str, ...]) -> None:
    for count in range(len(replies) + 1):
        assert not heard(SMTP, GROUP_OF_COMMANDS, *replies[:count]).between_commands
    assert not heard(SMTP, GROUP_OF_COMMANDS, *replies, MESSAGE[0]).between_commands
    assert heard(SMTP, GROUP_OF_COMMANDS, *replies, *MESSAGE).between_commands


def test_smtp_a_group_is_over_with_its_last_reply() -> None:
    group = "C: RSET\r\nMAIL FROM:<a>\r\nRCPT TO:<b>\r\n"
    assert not heard(SMTP, group, "S: 250 a\r\n250 b\r\n").between_commands
    assert heard(SMTP, group, "S: 250 a\r\n250 b\r\n", "S: 250 c\r\n").between_commands
    assert heard(SMTP, group, "S: 250 a\r\n250 b\r\n250 c\r\n").between_commands


def test_smtp_a_reply_of_several_lines_is_one_reply() -> None:
    assert heard(SMTP, "C: EHLO a\r\n", "S: 250-b\r\n250-SIZE 10\r\n250 PIPELINING\r\n").between_commands


def test_smtp_a_reply_of_several_lines_is_over_with_its_last_line() -> None:
    first = ("C: EHLO a\r\n", "S: 250-b\r\n", "S: 250-SIZE 10\r\n250-8BITMIME\r\n")
    assert not heard(SMTP, *first).between_commands
    assert heard(SMTP, *first, "S: 250 PIPELINING\r\n").between_commands


@pytest.mark.parametrize("last", ["250 ok\r\n", "250\r\n"], ids=["with text", "code alone"])
def test_smtp_a_last_line_needs_no_text(last: str) -> None:
    assert heard(SMTP, "C: EHLO a\r\n", f"S: 250-b\r\n{last}").between_commands


def test_smtp_a_reply_that_is_cut_inside_a_line_ends_all_certainty() -> None:
    cut = ("C: EHLO a\r\n", "S: 250-b\r\n250 PIPE", "S: LINING\r\n")
    assert not heard(SMTP, *cut).between_commands
    assert not heard(SMTP, *cut, "C: NOOP\r\n", "S: 250 ok\r\n").between_commands


def test_smtp_more_replies_than_commands_end_all_certainty() -> None:
    dialogue = heard(SMTP, "C: NOOP\r\n", "S: 250 ok\r\n250 ok\r\n")
    assert not dialogue.between_commands
    dialogue.asked(b"NOOP\r\n")
    assert not dialogue.between_commands


@pytest.mark.parametrize(
    "message",
    [
        ("C: a\r\n.\r\n",),
        ("C: a\r\n", "C: b\r\n.\r\n"),
        ("C: a\r\n", "C: .\r\n"),
        ("C: .\r\n",),
        ("C: 250 ok\r\n354 go\r\n..\r\n", "C: .x\r\n\r\n.\r\n"),
    ],
    ids=["one piece", "two pieces", "the dot alone", "empty", "lines like replies"],
)
def test_smtp_a_message_ends_with_a_dot_alone_and_its_reply(message: tuple[str, ...]) -> None:
    begun = ("C: DATA\r\n", "S: 354 go\r\n")
    for count in range(len(message) + 1):
        assert not heard(SMTP, *begun, *message[:count]).between_commands
    assert heard(SMTP, *begun, *message, "S: 250 queued\r\n").between_commands


def test_smtp_a_message_is_not_over_because_a_line_that_ends_with_a_dot_was_cut_there() -> None:
    cut = ("C: DATA\r\n", "S: 354 go\r\n", "C: The end", "C: .\r\n", "C: Not yet.\r\n")
    assert not heard(SMTP, *cut).between_commands
    assert not heard(SMTP, *cut, "C: .\r\n").between_commands


@pytest.mark.parametrize("early", ["421 shutting down\r\n", "552 too big\r\n"])
def test_smtp_a_reply_inside_a_message_makes_nothing_certain(early: str) -> None:
    assert not heard(SMTP, "C: DATA\r\n", "S: 354 go\r\n", "C: a\r\n", f"S: {early}").between_commands


def test_smtp_a_refused_data_has_no_message() -> None:
    assert heard(SMTP, "C: DATA\r\n", "S: 503 no\r\n").between_commands


def test_smtp_a_challenge_is_answered_before_anything_else() -> None:
    asked = ("C: AUTH LOGIN\r\n", "S: 334 VXNlcm5hbWU6\r\n")
    answered = (*asked, "C: YQ==\r\n", "S: 334 UGFzc3dvcmQ6\r\n", "C: Yg==\r\n")
    for count in range(1, len(answered) + 1):
        assert not heard(SMTP, *answered[:count]).between_commands
    assert heard(SMTP, *answered, "S: 235 welcome\r\n").between_commands


def test_smtp_a_challenge_at_the_end_of_other_replies_counts_too() -> None:
    assert not heard(SMTP, "C: RSET\r\nAUTH LOGIN\r\n", "S: 250 ok\r\n334 VXNl\r\n").between_commands


@pytest.mark.parametrize(
    "before", [(), ("C: DATA\r\n", "S: 354 go\r\n", "C: a\r\n")], ids=["of the node", "of a message"]
)
def test_smtp_bytes_that_nobody_saw_end_all_certainty(before: tuple[str, ...]) -> None:
    dialogue = heard(SMTP, *before)
    dialogue.unseen()
    assert not dialogue.between_commands
    for said, reply in [(b"b\r\n.\r\n", b"250 queued\r\n"), (b"NOOP\r\n", b"250 ok\r\n")]:
        dialogue.asked(said)
        assert not dialogue.between_commands
        dialogue.answered(reply)
        assert not dialogue.between_commands


def test_smtp_a_reply_of_several_lines_begins_tls_too() -> None:
    assert not heard(SMTP, "C: STARTTLS\r\n", "S: 220-go\r\n220 ahead\r\n").between_commands


# --- NNTP ---


def test_nntp_a_command_without_its_reply_keeps_the_session_busy() -> None:
    assert not heard(NNTP, "C: DATE\r\n").between_commands
    assert heard(NNTP, "C: DATE\r\n", "S: 111 20260101000000\r\n").between_commands


@pytest.mark.parametrize(
    "reply", ["430 no such article\r\n", "500 what?\r\n", "223 1 <a>\r\n", "205 bye\r\n"]
)
def test_nntp_a_reply_of_one_line_is_whole(reply: str) -> None:
    assert heard(NNTP, "C: STAT 1\r\n", f"S: {reply}").between_commands


def test_nntp_the_choice_of_a_group_is_answered_in_one_line() -> None:
    asked = ("C: GROUP a.b\r\n", "S: 211 2 1 2 a.b\r\n")
    assert heard(NNTP, *asked).between_commands
    in_pieces = ("C: GRO", "C: UP a.b\r\n", "S: 211 2 1 2 a.b\r\n")  # who looks at pieces cannot tell
    assert not heard(NNTP, *in_pieces).between_commands


def test_nntp_a_listing_of_a_group_ends_with_its_dot() -> None:
    asked = ("C: LISTGROUP a.b\r\n", "S: 211 2 1 2 a.b\r\n")
    assert not heard(NNTP, *asked, "S: 101\r\n").between_commands
    assert heard(NNTP, *asked, "S: 101\r\n", "S: 102\r\n.\r\n").between_commands


@pytest.mark.parametrize(
    "block",
    [
        ("S: 220 1 <a>\r\nSubject: b\r\n\r\nc\r\n.\r\n",),
        ("S: 220 1 <a>\r\n", "S: Subject: b\r\n\r\n", "S: c\r\n.\r\n"),
        ("S: 220 1 <a>\r\nSubj", "S: ect: b\r\n\r\n111 c\r\n..\r\n", "S: 430 d\r\n", "S: e\r\n.\r\n"),
        ("S: 220 1 <a>\r\n", "S: \r\n.\r\n"),
    ],
    ids=["one piece", "three pieces", "lines like replies", "the end alone"],
)
def test_nntp_an_article_is_over_with_its_dot(block: tuple[str, ...]) -> None:
    for count in range(len(block)):
        assert not heard(NNTP, "C: ARTICLE 1\r\n", *block[:count]).between_commands
    assert heard(NNTP, "C: ARTICLE 1\r\n", *block).between_commands


@pytest.mark.parametrize("code", [100, 101, 215, 220, 221, 222, 224, 225, 230, 231, 282])
def test_nntp_these_codes_are_followed_by_a_block(code: int) -> None:
    begun = ("C: X\r\n", f"S: {code} follows\r\n")
    assert not heard(NNTP, *begun).between_commands
    assert heard(NNTP, *begun, "S: a\r\n.\r\n").between_commands


@pytest.mark.parametrize(
    "tail", [("S: \r", "S: \n.\r\n"), ("S: \r\n.", "S: \r\n"), ("S: \r\n", "S: .", "S: \r\n")]
)
def test_nntp_an_end_of_a_block_that_was_cut_is_seen(tail: tuple[str, ...]) -> None:
    begun = ("C: ARTICLE 1\r\n", "S: 220 1 <a>\r\nb")
    assert not heard(NNTP, *begun, *tail[:-1]).between_commands
    assert heard(NNTP, *begun, *tail).between_commands


@pytest.mark.parametrize(
    ("command", "go", "done"), [("POST", 340, 240), ("IHAVE <a>", 335, 235)], ids=["post", "ihave"]
)
@pytest.mark.parametrize(
    "article",
    [("C: A: b\r\n\r\nc\r\n.\r\n",), ("C: A: b\r\n", "C: \r\nc\r\n..\r\n", "C: .\r\n")],
    ids=["one piece", "three pieces"],
)
def test_nntp_an_article_of_the_client_ends_with_its_dot_and_its_reply(
    command: str, go: int, done: int, article: tuple[str, ...]
) -> None:
    begun = (f"C: {command}\r\n", f"S: {go} go\r\n")
    for count in range(len(article) + 1):
        assert not heard(NNTP, *begun, *article[:count]).between_commands
    assert heard(NNTP, *begun, *article, f"S: {done} taken\r\n").between_commands


@pytest.mark.parametrize("code", [381, 383])
def test_nntp_a_prompt_is_answered_before_anything_else(code: int) -> None:
    begun = ("C: AUTHINFO USER a\r\n", f"S: {code} more\r\n")
    assert not heard(NNTP, *begun).between_commands
    assert heard(NNTP, *begun, "C: AUTHINFO PASS b\r\n", "S: 281 welcome\r\n").between_commands


def test_nntp_a_client_that_does_not_wait_for_replies_is_never_certain() -> None:
    group = ("C: STAT 1\r\nSTAT 2\r\n", "S: 223 1 <a>\r\n", "S: 430 no\r\n")
    assert not heard(NNTP, *group).between_commands
    assert not heard(NNTP, *group, "C: DATE\r\n", "S: 111 now\r\n").between_commands
    sliding = ("C: GROUP a\r\n", "C: STAT 1\r\n", "S: 211 1 1 1 a\r\n", "S: 223 1 <a>\r\n")
    assert not heard(NNTP, *sliding).between_commands
    inside = ("C: ARTICLE 1\r\n", "S: 220 1 <a>\r\nA: b\r\n\r\n", "C: ARTICLE 2\r\n", "S: 123 bottles\r\n")
    assert not heard(NNTP, *inside).between_commands
    behind = ("C: POST\r\n", "S: 340 go\r\n", "C: a\r\n.\r\nTAKETHIS <a>\r\nb\r\n.\r\n", "S: 240 x\r\n")
    assert not heard(NNTP, *behind).between_commands


@pytest.mark.parametrize("reply", ["339 go", "288 follows", "199 what", "299 x"])
def test_nntp_a_reply_that_is_not_known_is_never_certain(reply: str) -> None:
    asked = ("C: XTHING\r\n", f"S: {reply}\r\n")
    assert not heard(NNTP, *asked).between_commands
    assert not heard(NNTP, *asked, "C: DATE\r\n", "S: 111 now\r\n").between_commands


def test_smtp_a_switch_to_tls_behind_another_reply_is_seen() -> None:
    group = ("C: RSET\r\nSTARTTLS\r\n", "S: 250 ok\r\n220 go\r\n")
    assert not heard(SMTP, *group).between_commands
    assert not heard(SMTP, *group, "C: NOOP\r\n", "S: 250 ok\r\n").between_commands


def test_smtp_a_chunk_of_a_message_is_no_command() -> None:
    assert not heard(SMTP, "C: BDAT 1000\r\n", "S: 503 no\r\n").between_commands
    assert not heard(SMTP, "C: NOOP\r\nBDAT 9\r\n", "S: 250 ok\r\n", "S: 250 ok\r\n").between_commands


@pytest.mark.parametrize(
    "after",
    [
        ("C: NOOP\r\n", "S: 250-ok\r\n250 ok\r\n"),
        ("C: DATA\r\n", "S: 354 go\r\n", "C: .\r\n", "S: 250 queued\r\n"),
        ("C: STARTTLS\r\n", "S: 220 go\r\n", "C: NOOP\r\n", "S: 250 ok\r\n"),
    ],
    ids=["lines", "a message", "TLS"],
)
def test_smtp_what_is_lost_stays_lost(after: tuple[str, ...]) -> None:
    dialogue = heard(SMTP, "C: NOOP\r\n")
    dialogue.unseen()
    for line in ("S: 250 ok\r\n", *after):
        (dialogue.asked if line[0] == "C" else dialogue.answered)(line[3:].encode())
        assert not dialogue.between_commands


def test_nntp_pipelined_articles_are_not_over_with_the_first() -> None:
    group = ("C: ARTICLE 1\r\nARTICLE 2\r\n", "S: 220 1 <a>\r\nb\r\n.\r\n")
    assert not heard(NNTP, *group).between_commands
    assert not heard(NNTP, *group, "S: 220 2 <c>\r\n").between_commands


@pytest.mark.parametrize("go", ["206 compression active\r\n", "382 go\r\n"])
def test_nntp_what_cannot_be_read_from_now_on_is_never_certain(go: str) -> None:
    assert not heard(NNTP, "C: X\r\n", f"S: {go}", "C: DATE\r\n", "S: 111 now\r\n").between_commands


def test_nntp_bytes_that_nobody_saw_take_the_certainty_away() -> None:
    dialogue = heard(NNTP, "C: ARTICLE 1\r\n", "S: 220 1 <a>\r\nb\r\n")
    dialogue.unseen()
    dialogue.answered(b"c\r\n.\r\n")
    assert not dialogue.between_commands
    dialogue.asked(b"DATE\r\n")
    dialogue.answered(b"111 now\r\n")
    assert not dialogue.between_commands


def test_nntp_blindness_is_not_healed_by_bytes_that_nobody_saw() -> None:
    dialogue = heard(NNTP, "C: STARTTLS\r\n", "S: 382 go\r\n")
    dialogue.unseen()
    dialogue.asked(b"DATE\r\n")
    dialogue.answered(b"111 now\r\n")
    assert not dialogue.between_commands


# --- the promise ---


@dataclass(frozen=True, slots=True)
class Step:
    """What a client says at once, and the reply to it.

    more: the client owes something after it. alone: it is said when all replies are there, and nothing more
    is said before its own.
    """

    said: bytes
    reply: bytes
    more: bool = False
    alone: bool = False


class Model:
    """A client and a node that follow a script, and how far they have come."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = steps
        self._said = b"".join(step.said for step in steps)
        self._replies = b"".join(step.reply for step in steps)
        self._client = self._node = 0

    @property
    def between_commands(self) -> bool:
        """Whether every command has had its reply, and the client owes nothing."""
        said = replied = 0
        places = [(0, 0)]
        for step in self._steps:
            said, replied = said + len(step.said), replied + len(step.reply)
            if not step.more:
                places.append((said, replied))
        return (self._client, self._node) in places

    @property
    def may_say(self) -> int:
        """How many bytes the client may send on."""
        end = replied = 0
        for step in self._steps:
            if step.alone and self._node < replied:
                break
            end, replied = end + len(step.said), replied + len(step.reply)
            if step.alone and self._node < replied:
                break
        return end - self._client

    @property
    def may_reply(self) -> int:
        """How many bytes the node may send on."""
        end = said = 0
        for step in self._steps:
            said += len(step.said)
            if self._client < said:
                break
            end += len(step.reply)
        return end - self._node

    def next(self, size: int, *, from_client: bool) -> bytes:
        """Return the next SIZE bytes of one side, without sending them."""
        start, all_ = (self._client, self._said) if from_client else (self._node, self._replies)
        return all_[start : start + size]

    def send(self, size: int, *, from_client: bool) -> None:
        """Send the next SIZE bytes of one side."""
        if from_client:
            self._client += size
        else:
            self._node += size


def cut(data: st.DataObject, said: bytes) -> int:
    """How much of SAID comes in the next piece: often all, or whole lines."""
    ends = [size for size in range(1, len(said)) if said[size - 1 : size] == b"\n"]
    where = data.draw(st.sampled_from(["all", "lines", "anywhere"]))
    if where == "anywhere":
        return data.draw(st.integers(1, len(said)))
    return data.draw(st.sampled_from(ends)) if ends and where == "lines" else len(said)


def follow(
    dialect: Dialect, steps: Sequence[Step], data: st.DataObject, *, eager: bool, losses: bool
) -> None:
    """Play a script in random pieces; fail where the dialogue is certain and wrong.

    eager: the node may reply while the client says more. losses: some pieces are not seen.
    """
    model, dialogue = Model(steps), Dialogue(dialect)
    lost = None  # the direction that nobody looks at
    while (may_say := model.may_say) + (may_reply := model.may_reply):
        from_client = bool(may_say) and (not may_reply or not eager or data.draw(st.booleans()))
        may_send = model.next(may_say if from_client else may_reply, from_client=from_client)
        piece = may_send[: cut(data, may_send)]
        model.send(len(piece), from_client=from_client)
        if lost is not from_client:
            lost = None
            (dialogue.asked if from_client else dialogue.answered)(piece)
            if losses and data.draw(st.integers(0, 3)) == 0:
                dialogue.unseen()
                lost = from_client
        elif data.draw(st.booleans()):
            lost = None
        if dialogue.between_commands:
            assert model.between_commands


LINES = st.sampled_from(
    [b"", b"a", b".", b"..", b"end.", b"250 ok", b"354 go", b"111 now", b"123", b"220 b", b"250-c", b"421 d"]
)


def stuffed(lines: list[bytes]) -> bytes:
    """A block as it is sent (RFC 5321, 4.5.2; RFC 3977, 3.1.1)."""
    return b"".join((b"." if line.startswith(b".") else b"") + line + b"\r\n" for line in lines) + b".\r\n"


BLOCKS = st.lists(LINES, max_size=4).map(stuffed)


def fixed(*steps: Step) -> st.SearchStrategy[list[Step]]:
    """A strategy for one part of a script."""
    return st.just(list(steps))


def taking(command: bytes, go: bytes, done: bytes, *, alone: bool = False) -> st.SearchStrategy[list[Step]]:
    """A command after which the client sends a block, and perhaps more commands with it."""
    return BLOCKS.map(
        lambda block: [Step(command, go, more=True, alone=True), Step(block, done, alone=alone)]
    )


def tls(go: bytes) -> list[Step]:
    """STARTTLS, and what nobody can read."""
    return [
        Step(b"STARTTLS\r\n", go, more=True, alone=True),
        Step(CLIENT_HELLO, SERVER_HELLO, more=True, alone=True),
        Step(b"\x17\x03\x03ab\n", b"\x17\x03\x03cd\r\n", more=True, alone=True),
    ]


SMTP_PARTS = st.one_of(
    fixed(Step(b"NOOP\r\n", b"250 ok\r\n")),
    fixed(Step(b"EHLO a\r\n", b"250-b\r\n250-SIZE 10\r\n250 PIPELINING\r\n")),
    fixed(Step(b"HELP\r\n", b"214-no help\r\n214\r\n")),
    fixed(Step(b"RCPT TO:<a>\r\n", b"550 5.1.1 no\r\n")),
    fixed(Step(b"RCPT TO:<b>\r\n", b"450-later\r\n450 much later\r\n")),
    fixed(Step(b"DATA\r\n", b"503 no\r\n", alone=True)),
    fixed(Step(b"BDAT 6 LAST\r\n\r\nab\r\n", b"250 queued\r\n")),
    fixed(Step(b"BDAT 3\r\nabc", b"250 ok\r\n"), Step(b"BDAT 0 LAST\r\n", b"250 queued\r\n")),
    fixed(
        Step(b"AUTH LOGIN\r\n", b"334 VXNl\r\n", more=True, alone=True),
        Step(b"YQ==\r\n", b"334 UGFz\r\n", more=True, alone=True),
        Step(b"Yg==\r\n", b"235 welcome\r\n", alone=True),
    ),
    taking(b"DATA\r\n", b"354 go\r\n", b"250 queued\r\n"),
    taking(b"DATA\r\n", b"354-go\r\n354 on\r\n", b"554-5.7.1\r\n554 spam\r\n"),
)

NNTP_PARTS = st.one_of(
    fixed(Step(b"DATE\r\n", b"111 20260101000000\r\n")),
    fixed(Step(b"STAT 1\r\n", b"223 1 <a>\r\n")),
    fixed(Step(b"ARTICLE 9\r\n", b"423 no such number\r\n")),
    fixed(Step(b"GROUP a.b\r\n", b"211 2 101 102 a.b\r\n")),
    fixed(Step(b"LISTGROUP a.b\r\n", b"211 2 101 102 a.b\r\n101\r\n102\r\n.\r\n")),
    fixed(Step(b"LISTGROUP a.c\r\n", b"211 0 0 0 a.c\r\n.\r\n")),
    fixed(Step(b"POST\r\n", b"440 no\r\n", alone=True)),
    fixed(Step(b"CHECK <a>\r\n", b"238 <a>\r\n")),
    fixed(
        Step(b"AUTHINFO USER a\r\n", b"381 more\r\n", more=True, alone=True),
        Step(b"AUTHINFO PASS b\r\n", b"281 welcome\r\n", alone=True),
    ),
    BLOCKS.map(lambda block: [Step(b"ARTICLE 1\r\n", b"220 1 <a>\r\n" + block)]),
    BLOCKS.map(lambda block: [Step(b"LIST\r\n", b"215 list\r\n" + block)]),
    BLOCKS.map(lambda block: [Step(b"TAKETHIS <a>\r\n" + block, b"239 <a>\r\n")]),
    taking(b"POST\r\n", b"340 go\r\n", b"240 taken\r\n", alone=True),
    taking(b"IHAVE <a>\r\n", b"335 go\r\n", b"436 later\r\n", alone=True),
)


def scripts(parts: st.SearchStrategy[list[Step]], go: bytes) -> st.SearchStrategy[list[Step]]:
    """Whole sessions, some of which go on in TLS."""
    return st.builds(
        lambda parts, ends: [step for part in parts for step in part] + ends,
        st.lists(parts, max_size=6),
        st.sampled_from([[], tls(go)]),
    )


def in_lockstep(steps: Sequence[Step]) -> list[Step]:
    """The same script of a client that does not pipeline."""
    return [Step(step.said, step.reply, step.more, alone=True) for step in steps]


@settings(max_examples=500, deadline=None)
@given(scripts(SMTP_PARTS, b"220 go\r\n"), st.data())
def test_smtp_whoever_pipelines_and_however_it_is_cut_certainty_is_right(
    steps: list[Step], data: st.DataObject
) -> None:
    follow(SMTP, steps, data, eager=True, losses=False)


@settings(max_examples=500, deadline=None)
@given(scripts(NNTP_PARTS, b"382 go\r\n"), st.booleans(), st.data())
def test_nntp_with_a_client_that_waits_for_replies_certainty_is_right(
    steps: list[Step], losses: bool, data: st.DataObject
) -> None:
    follow(NNTP, in_lockstep(steps), data, eager=True, losses=losses)


@settings(max_examples=500, deadline=None)
@given(scripts(NNTP_PARTS, b"382 go\r\n"), st.data())
def test_nntp_with_a_client_that_pipelines_one_group_at_a_time_certainty_is_right(
    steps: list[Step], data: st.DataObject
) -> None:
    follow(NNTP, steps, data, eager=False, losses=False)
