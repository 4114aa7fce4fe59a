"""Who may ask the admin endpoint for what: the rules, without a socket."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackproxy.admin.access import (
    ANYBODY,
    FIRST_S,
    FORGET_S,
    LONGEST_S,
    MOST_PEERS,
    Asked,
    Caller,
    Patience,
    WrongToken,
    admit,
    hash_of,
    holder,
    is_ours,
    is_same_origin,
    parsed_host,
)
from trackproxy.admin.problems import Problem
from trackproxy.admin_sections import Admin

READER, WRITER = "tp_reader", "tp_writer"
TOKENS = [
    {"name": "rita", "role": "read", "hash": hash_of(READER)},
    {"name": "will", "role": "write", "hash": hash_of(WRITER)},
]
LOOPBACK, OUTSIDE = ("127.0.0.1", 8400), ("10.0.0.5", 8400)


def admin(**settings: Any) -> Admin:
    return Admin.model_validate(settings)


LOCAL, GUARDED = admin(), admin(listen="10.0.0.5:8400", tokens=TOKENS)

GET = Asked("GET", "/api/v1/nodes", LOOPBACK, ["localhost:8400"])
POST = replace(GET, method="POST")
FAR = replace(GET, local=OUTSIDE, hosts=["10.0.0.5:8400"])


def bearing(asked: Asked, secret: str) -> Asked:
    return replace(asked, authorization=[f"Bearer {secret}"])


def refusal(asked: Asked, settings: Admin) -> Problem:
    with pytest.raises(Problem) as caught:
        admit(asked, settings)
    return caught.value


# --- who asks, and what for ---


def test_on_this_machine_without_tokens_anybody_may_change_everything() -> None:
    caller = admit(POST, LOCAL)
    assert (caller.name, caller.role, caller.by, caller.who) == (None, "write", "none", "anonymous")
    assert admit(replace(POST, local=None, hosts=["whatever"]), LOCAL) == caller


def test_a_connection_from_elsewhere_is_nobodys_once_tokens_are_gone() -> None:
    asked = replace(FAR, hosts=["balancer"])
    assert refusal(asked, admin(hosts=["balancer"])).status == 403


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "TRACE", "x"])
@pytest.mark.parametrize("route", ["/api/v1/nodes", "/metrics", ""])
def test_without_a_token_that_is_needed_nothing_is_told_but_how_to_ask(method: str, route: str) -> None:
    problem = refusal(replace(FAR, method=method, route=route), GUARDED)
    assert problem.status == 401
    assert problem.headers["WWW-Authenticate"] == 'Bearer realm="trackproxy"'  # RFC 6750, 3: no error code


@pytest.mark.parametrize("route", ["/healthz", "/readyz"])
def test_load_balancers_need_neither_a_token_nor_a_name(route: str) -> None:
    assert admit(replace(FAR, route=route, hosts=["10.9.9.9"]), GUARDED) == ANYBODY
    assert admit(replace(FAR, route=route, hosts=[]), GUARDED) == ANYBODY


@pytest.mark.parametrize("route", ["/", "/static/{path}"])
def test_the_page_needs_no_token_but_its_own_name(route: str) -> None:
    assert admit(replace(FAR, route=route), GUARDED) == ANYBODY
    assert refusal(replace(FAR, route=route, hosts=["evil.example:8400"]), GUARDED).status == 421
    assert refusal(replace(FAR, route=route, method="POST"), GUARDED).status == 401


def test_a_token_says_who_asks_and_what_for() -> None:
    assert admit(bearing(FAR, READER), GUARDED) == Caller("read", "token", "rita")
    writing = bearing(replace(FAR, method="POST"), WRITER)
    assert admit(writing, GUARDED).who == "will"


@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT", "DELETE", "OPTIONS"])
def test_a_token_for_reading_changes_nothing(method: str) -> None:
    problem = refusal(bearing(replace(FAR, method=method), READER), GUARDED)
    assert problem.status == 403
    assert 'error="insufficient_scope"' in problem.headers["WWW-Authenticate"]


@pytest.mark.parametrize(
    "lines",
    [
        ["Bearer tp_other"],
        ["Bearer "],
        ["Bearer"],
        [""],
        ["Basic dHBfd3JpdGVyOg=="],
        [WRITER],
        [f"Bearer {WRITER} {WRITER}"],
        [f"Bearer {WRITER}\udcff"],
        [f"Bearer {WRITER.upper()}"],
        [f"Bearer {hash_of(WRITER)}"],
        [f"Bearer {WRITER}", f"Bearer {WRITER}"],
    ],
)
def test_what_is_nobodys_token_is_refused_and_not_repeated(lines: list[str]) -> None:
    problem = refusal(replace(FAR, authorization=lines), GUARDED)
    assert isinstance(problem, WrongToken)
    assert problem.status == 401
    assert 'error="invalid_token"' in problem.headers["WWW-Authenticate"]
    told = f"{problem} {problem.detail} {problem.problems} {problem.headers}"
    assert WRITER not in told
    assert "tp_other" not in told


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER   "])
def test_the_scheme_has_no_case(scheme: str) -> None:
    found = holder([scheme + READER], GUARDED.tokens)
    assert found is not None
    assert found.name == "rita"


def test_a_secret_is_compared_with_every_token(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def compare(first: str, second: str) -> bool:
        seen.append(first)
        return first == second

    monkeypatch.setattr("trackproxy.admin.access.hmac.compare_digest", compare)
    for lines in ([f"Bearer {READER}"], [f"Bearer {WRITER}"], ["Bearer x"], ["nonsense"]):
        seen.clear()
        holder(lines, GUARDED.tokens)
        assert seen == [token.hash for token in GUARDED.tokens]


# --- its name ---


@pytest.mark.parametrize("host", ["localhost:8400", "127.0.0.1:8400", "[::1]:8400", "LOCALHOST:8400"])
@pytest.mark.parametrize("local", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_on_loopback_it_has_the_names_of_loopback(host: str, local: str) -> None:
    assert is_ours(host, (local, 8400), admin(listen="127.0.0.1:8400"))


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8400",
        "localhost",
        "localhost:80",
        "127.0.0.1",
        "10.0.0.5:8400",
        "",
        ":8400",
        "localhost.evil.example:8400",
        "127.0.0.1.evil.example:8400",
        "localhost:8400@evil",
        "[::2]:8400",
        "[localhost]:8400",
        "localhost:8400:8400",
        "localhost:8400 ",
        "localhost:",
        "localhost:99999999",
    ],
)
def test_no_other_name_is_its_own_on_loopback(host: str) -> None:
    assert not is_ours(host, LOOPBACK, LOCAL)


def test_a_port_that_http_does_not_write_is_80() -> None:
    assert is_ours("localhost", ("127.0.0.1", 80), LOCAL)
    assert is_ours("localhost:80", ("127.0.0.1", 80), LOCAL)


def test_names_of_the_settings_are_its_own_with_any_port_unless_they_have_one() -> None:
    settings = admin(hosts=["Balancer.example.com", "other:9000", "[2001:db8::1]"])
    for host in ("balancer.example.com", "BALANCER.example.com:8400", "other:9000", "[2001:DB8:0::1]:1"):
        assert is_ours(host, LOOPBACK, settings), host
    for host in ("other", "other:8400", "x.balancer.example.com", "example.com", "localhost:9000"):
        assert not is_ours(host, LOOPBACK, settings), host


def test_an_empty_name_in_the_settings_names_nothing() -> None:
    assert not is_ours("", LOOPBACK, admin(hosts=["", ":0"]))


def test_one_address_is_one_name() -> None:
    assert is_ours("10.0.0.5:8400", OUTSIDE, GUARDED)
    for host in ("localhost:8400", "127.0.0.1:8400", "10.0.0.6:8400", "evil.example:8400"):
        assert not is_ours(host, OUTSIDE, GUARDED), host


@pytest.mark.parametrize("listen", [":8400", "0.0.0.0:8400", "[::]:8400"])
def test_on_every_interface_any_address_is_its_own_and_no_name(listen: str) -> None:
    settings = admin(listen=listen, tokens=TOKENS)
    for host in ("10.0.0.5:8400", "192.0.2.1:8400", "[2001:db8::1]:8400"):  # behind NAT we do not know them
        assert is_ours(host, OUTSIDE, settings), host
    for host in ("localhost:8400", "evil.example:8400", "10.0.0.5:8401", "1.evil.example:8400"):
        assert not is_ours(host, OUTSIDE, settings), host
    assert is_ours("localhost:8400", LOOPBACK, settings)


def test_a_name_to_listen_on_is_its_own() -> None:
    settings = admin(listen="balancer:8400", tokens=TOKENS)
    assert is_ours("Balancer:8400", OUTSIDE, settings)


def test_a_unix_socket_has_any_name_until_some_are_given() -> None:
    assert is_ours("anything at all", None, LOCAL)
    named = admin(listen="unix:/run/admin.sock", hosts=["balancer"])
    assert is_ours("balancer", None, named)
    assert is_ours("localhost", None, named)
    assert not is_ours("evil.example", None, named)


@pytest.mark.parametrize("hosts", [[], ["localhost:8400", "localhost:8400"]])
def test_there_is_one_host(hosts: list[str]) -> None:
    assert refusal(replace(GET, hosts=hosts), LOCAL).status == 400


@given(st.text(max_size=60))
def test_whatever_a_host_says_it_is_read_or_refused(text: str) -> None:
    found = parsed_host(text)
    if found is not None:
        name, port = found
        assert name == name.lower()
        written = f"[{name}]" if ":" in name else name
        assert parsed_host(written if port is None else f"{written}:{port}") == found
    assert refusal(replace(GET, hosts=[f"{text}.evil.example"]), LOCAL).status == 421


@given(st.from_regex(r"\A[a-z0-9.-]{1,20}\Z"), st.none() | st.integers(0, 99999))
def test_only_a_name_of_loopback_is_ours_there(name: str, port: int | None) -> None:
    host = name if port is None else f"{name}:{port}"
    assert is_ours(host, LOOPBACK, LOCAL) == (name in ("localhost", "127.0.0.1") and port == 8400)


# --- from where ---


def test_a_page_of_ours_and_what_is_no_page_may_ask_for_a_change() -> None:
    for origin in (None, "http://localhost:8400", "https://localhost:8400", "HTTP://LOCALHOST:8400"):
        for site in (None, "same-origin", "none"):
            assert admit(replace(POST, origin=origin, site=site), LOCAL).role == "write"


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "",
        "http://localhost",
        "http://localhost:3000",
        "http://127.0.0.1:8400",
        "localhost:8400",
        "file://localhost:8400",
        "http://localhost:8400/",
        "http://x@localhost:8400",
    ],
)
@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE", "PUT"])
def test_a_page_of_another_origin_may_not(origin: str, method: str) -> None:
    assert refusal(replace(POST, method=method, origin=origin), LOCAL).status == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site", ""])
def test_a_page_of_another_site_may_not_even_if_it_names_no_origin(site: str) -> None:
    assert refusal(replace(POST, site=site), LOCAL).status == 403


def test_reading_is_up_to_the_browser() -> None:
    assert admit(replace(GET, origin="http://evil.example", site="cross-site"), LOCAL).role == "write"


@given(st.text(max_size=40), st.text(max_size=40))
def test_an_origin_is_ours_only_if_it_is_the_host_that_was_asked_for(origin: str, host: str) -> None:
    if is_same_origin(origin, [host]):
        assert origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")
    assert is_same_origin(f"http://{host}", [host])


@pytest.mark.parametrize(
    "type_",
    ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data", "application/octet-stream"],
)
def test_what_a_form_can_send_changes_nothing(type_: str) -> None:
    problem = refusal(replace(POST, type=type_), LOCAL)
    assert problem.status == 415
    assert 'curl -H "Content-Type: application/json"' in problem.detail


@pytest.mark.parametrize("type_", ["application/json", "application/toml", "text/plain"])
def test_settings_are_checked_as_text_or_as_json(type_: str) -> None:
    assert admit(replace(POST, route="/api/v1/check", type=type_), LOCAL).role == "write"
    form = replace(POST, route="/api/v1/check", type="application/x-www-form-urlencoded")
    assert refusal(form, LOCAL).status == 415


# --- wrong tokens ---


def test_each_wrong_token_waits_longer_up_to_a_bound() -> None:
    patience = Patience()
    waits = [patience.wrong("192.0.2.1", 0.0)[1] for _ in range(100)]
    assert waits[:3] == [FIRST_S, 2 * FIRST_S, 4 * FIRST_S]
    assert waits == sorted(waits)
    assert max(waits) == LONGEST_S


def test_somebody_else_waits_for_nobody_and_what_is_long_ago_is_forgotten() -> None:
    patience = Patience()
    for _ in range(9):
        patience.wrong("192.0.2.1", 0.0)
    assert patience.wrong("192.0.2.2", 0.0) == (1, FIRST_S)
    assert patience.wrong("192.0.2.1", FORGET_S) == (1, FIRST_S)


def test_an_ipv6_network_is_one_peer() -> None:
    patience = Patience()
    patience.wrong("2001:db8::1", 0.0)
    assert patience.wrong("2001:db8::ffff", 0.0)[0] == 2
    assert patience.wrong("2001:db8:0:1::1", 0.0)[0] == 1
    assert patience.wrong("::ffff:192.0.2.1", 0.0)[0] == 1
    assert patience.wrong("192.0.2.1", 0.0)[0] == 2


def test_no_more_peers_are_kept_than_may_be() -> None:
    patience = Patience()
    for number in range(MOST_PEERS + 10):
        patience.wrong(f"peer {number}", 0.0)
    assert len(patience._peers) == MOST_PEERS
    assert patience.wrong("peer 0", 0.0)[0] == 1  # the oldest are forgotten first
