"""Tokens of stickiness: what they say, and that nobody else can say it."""

from __future__ import annotations

import base64
import hashlib
import string
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackproxy.pool.stickiness import AHEAD_S, MEMO_ENTRIES, Flaw, Pass, Tokens

NOW = 1_800_000_000  # any second
NODES = ("node1", "node2", "node3")
ALPHABET = (string.ascii_letters + string.digits + "-_").encode()
seconds = st.integers(0, (1 << 32) - 1)


def tokens(
    *secrets: str, nodes: Iterable[str] = NODES, idle_s: float = 3600, lifetime_s: float = 86400
) -> Tokens:
    return Tokens(secrets or ("secret",), nodes, idle_s, lifetime_s)


def by_hand(secret: str, node: str, started_s: int, seen_s: int) -> bytes:
    """A token, put together from its description."""

    def keyed(person: bytes, text: bytes, size: int) -> bytes:
        key = hashlib.blake2b(secret.encode(), person=person).digest()
        return hashlib.blake2b(text, digest_size=size, key=key).digest()

    payload = keyed(b"sticky node", b"node" + node.encode(), 9)
    payload += started_s.to_bytes(4) + seen_s.to_bytes(4)
    return base64.urlsafe_b64encode(payload + keyed(b"sticky token", payload, 13))


# --- what a token says ---


@given(st.sampled_from(NODES), seconds, seconds)
def test_a_token_says_whose_client_it_is_and_since_when(node: str, one_s: int, other_s: int) -> None:
    started_s, seen_s = sorted((one_s, other_s))
    unlimited = tokens(idle_s=0, lifetime_s=0)
    token = unlimited.make(node, seen_s, started_s)
    assert unlimited.read(token, seen_s) == Pass(node, started_s, seen_s)


def test_a_new_client_comes_when_its_token_is_made() -> None:
    assert tokens().read(tokens().make("node2", NOW), NOW) == Pass("node2", NOW, NOW)


def test_a_token_stays_the_same_over_releases() -> None:
    token = by_hand("secret", "node1", NOW - 5, NOW)
    assert tokens().make("node1", NOW, NOW - 5) == token
    assert token == b"he9xqPF6-1JOa0nR-2tJ0gBO36wkxQKobt1Adns6"


@given(st.sampled_from(NODES), seconds, seconds)
def test_a_token_is_forty_octets_that_a_cookie_may_have(node: str, started_s: int, seen_s: int) -> None:
    token = tokens().make(node, seen_s, started_s)
    assert len(token) == 40
    assert set(token) <= set(ALPHABET)


def test_a_token_means_the_same_to_all_who_know_the_secret_and_the_node_in_any_order() -> None:
    token = tokens(nodes=NODES).make("node3", NOW)
    other = tokens(nodes=("node9", *reversed(NODES)))
    assert other.read(token, NOW) == Pass("node3", NOW, NOW)


def test_the_id_of_a_node_is_another_one_under_another_secret() -> None:
    assert tokens("one").make("node1", NOW)[:12] != tokens("two").make("node1", NOW)[:12]


def test_there_is_no_token_for_a_node_that_is_not_configured() -> None:
    with pytest.raises(KeyError):
        tokens().make("node4", NOW)


# --- forgery ---

GOOD = tokens().make("node1", NOW)


def test_a_token_is_forged_if_any_of_its_octets_is_another_one() -> None:
    reader = tokens()
    changed = {
        GOOD[:place] + bytes([octet]) + GOOD[place + 1 :] for place in range(40) for octet in range(256)
    }
    assert {reader.read(value, NOW) for value in changed - {GOOD}} == {Flaw.FORGED}
    assert reader.read(GOOD, NOW) == Pass("node1", NOW, NOW)


MALFORMED = {
    "nothing": b"",
    "name of a node": b"node1",
    "too short": GOOD[:-1],
    "too long": GOOD + b"A",
    "with padding": GOOD + b"==",
    "padding for an end": GOOD[:-2] + b"==",
    "with a line end": GOOD[:-1] + b"\n",
    "blanks around": b" " + GOOD + b" ",
    "a blank inside": GOOD[:20] + b" " + GOOD[20:],
    "twice": GOOD + GOOD,
    "all zeros": b"A" * 40,
    "no text": bytes(40),
    "above 127": b"\xe9" * 40,
}


@pytest.mark.parametrize("value", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_no_token_is_forged(value: bytes) -> None:
    assert tokens().read(value, NOW) is Flaw.FORGED


@given(st.one_of(st.binary(max_size=60), st.lists(st.sampled_from(ALPHABET), max_size=60).map(bytes)))
def test_whatever_is_sent_is_forged_and_never_an_error(value: bytes) -> None:
    assert tokens().read(value, NOW) is Flaw.FORGED


def test_a_token_has_one_spelling() -> None:
    reader = tokens()
    made = [reader.make("node1", NOW + number) for number in range(200)]
    spelled = [(token, token.replace(b"-", b"+").replace(b"_", b"/")) for token in made]
    others = [other for token, other in spelled if other != token]
    assert others
    assert {reader.read(other, NOW) for other in others} == {Flaw.FORGED}


def test_parts_of_two_tokens_are_no_token() -> None:
    reader = tokens()
    one, two = reader.make("node1", NOW), reader.make("node2", NOW)
    assert reader.read(one[:12] + two[12:], NOW) is Flaw.FORGED


# --- time ---


@pytest.mark.parametrize(
    ("idle_s", "lifetime_s", "age_s", "result"),
    [
        (60, 0, 60, None),
        (60, 0, 61, Flaw.EXPIRED),
        (0.5, 0, 1, Flaw.EXPIRED),
        (0, 600, 600, None),
        (0, 600, 601, Flaw.EXPIRED),
        (60, 600, 61, Flaw.EXPIRED),
        (600, 60, 61, Flaw.EXPIRED),
        (0, 0, NOW, None),
    ],
)
def test_a_token_expires_when_its_idle_time_or_its_lifetime_is_over(
    idle_s: float, lifetime_s: float, age_s: int, result: Flaw | None
) -> None:
    reader = tokens(idle_s=idle_s, lifetime_s=lifetime_s)
    token = reader.make("node1", NOW)
    for _ in range(2):  # read for the first time, and remembered
        assert reader.read(token, NOW + age_s) == (result or Pass("node1", NOW, NOW))
        assert reader.read(token, NOW) == Pass("node1", NOW, NOW)


def test_a_lifetime_goes_on_over_tokens_that_follow_each_other() -> None:
    reader = tokens(idle_s=60, lifetime_s=100)
    follower = reader.make("node1", NOW + 50, NOW)
    assert reader.read(follower, NOW + 100) == Pass("node1", NOW, NOW + 50)
    assert reader.read(follower, NOW + 101) is Flaw.EXPIRED


@pytest.mark.parametrize("ahead_s", [1, AHEAD_S])
def test_the_clocks_of_two_balancers_may_differ_a_little(ahead_s: int) -> None:
    token = tokens().make("node1", NOW + ahead_s)
    assert tokens().read(token, NOW) == Pass("node1", NOW + ahead_s, NOW + ahead_s)


@pytest.mark.parametrize(
    ("started_s", "seen_s"),
    [(NOW, NOW + AHEAD_S + 1), (NOW + AHEAD_S + 1, NOW), ((1 << 32) - 1, (1 << 32) - 1)],
    ids=["seen", "started", "the end of time"],
)
def test_a_token_from_the_future_is_forged(started_s: int, seen_s: int) -> None:
    for reader in (tokens(), tokens(idle_s=0, lifetime_s=0)):
        assert reader.read(reader.make("node1", seen_s, started_s), NOW) is Flaw.FORGED


# --- configurations that change ---


def test_a_token_of_an_older_secret_is_good_and_old() -> None:
    token = tokens("old").make("node1", NOW)
    assert tokens("new", "newer", "old").read(token, NOW) == Pass("node1", NOW, NOW, old=True)
    assert tokens("old", "new").read(token, NOW) == Pass("node1", NOW, NOW)


def test_the_first_secret_signs() -> None:
    assert tokens("new", "old").make("node1", NOW) == tokens("new").make("node1", NOW)


def test_a_token_of_a_secret_that_was_removed_is_forged() -> None:
    assert tokens("new").read(tokens("old").make("node1", NOW), NOW) is Flaw.FORGED


@pytest.mark.parametrize("secrets", [("secret",), ("new", "secret")], ids=["same secret", "older secret"])
def test_a_token_of_a_node_that_left_is_good_for_nothing(secrets: Sequence[str]) -> None:
    token = tokens(nodes=("node9",)).make("node9", NOW)
    reader = tokens(*secrets)
    assert [reader.read(token, NOW) for _ in range(2)] == [Flaw.UNKNOWN] * 2


def test_a_flaw_is_that_of_the_signature_then_of_the_time_then_of_the_node() -> None:
    reader = tokens(idle_s=60)
    token = tokens(nodes=("node9",)).make("node9", NOW)
    damaged = token[:-1] + (b"A" if token[-1:] != b"A" else b"B")
    assert reader.read(damaged, NOW + 61) is Flaw.FORGED
    assert reader.read(token, NOW - AHEAD_S - 1) is Flaw.FORGED
    assert reader.read(token, NOW + 61) is Flaw.EXPIRED
    assert reader.read(token, NOW + 60) is Flaw.UNKNOWN


# --- tokens that are due again ---


@pytest.mark.parametrize(
    ("idle_s", "age_s", "due"),
    [(600, 0, False), (600, 60, False), (600, 61, True), (0, NOW, False), (600, -60, False)],
)
def test_a_token_is_due_after_a_tenth_of_the_idle_time(idle_s: float, age_s: int, due: bool) -> None:
    assert tokens(idle_s=idle_s).due(Pass("node1", NOW - 9000, NOW), NOW + age_s) is due


@pytest.mark.parametrize("idle_s", [0, 600])
def test_a_token_of_an_older_secret_is_due_at_once(idle_s: float) -> None:
    assert tokens(idle_s=idle_s).due(Pass("node1", NOW, NOW, old=True), NOW)


# --- remembering ---


def test_what_is_remembered_is_bounded_and_means_the_same_after_all_was_forgotten() -> None:
    reader = tokens(idle_s=0, lifetime_s=0)
    for number in range(2 * MEMO_ENTRIES + 10):
        assert reader.read(reader.make("node2", NOW - number), NOW) == Pass(
            "node2", NOW - number, NOW - number
        )
        assert len(reader._known) <= MEMO_ENTRIES
    assert reader.read(GOOD, NOW) == Pass("node1", NOW, NOW)


def test_a_good_token_is_remembered_and_a_forged_one_is_not() -> None:
    reader = tokens()
    assert reader.read(GOOD, NOW) is reader.read(bytes(bytearray(GOOD)), NOW)
    for value in MALFORMED.values():
        reader.read(value, NOW)
    assert list(reader._known) == [GOOD]
