"""Agents: what gets a tag, and above all what gets none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackproxy.http.agents import (
    MEMO_ENTRIES,
    RULES,
    VALUE_BYTES,
    AgentRule,
    Agents,
    check_agent_regex,
    user_agent_in,
)

KNOWN = {
    "Mozilla/5.0 (Windows NT 5.1) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)": "image-proxy",
    "YahooMailProxy; https://help.yahoo.com/kb/yahoo-mail-proxy-SLN28749.html": "image-proxy",
    "Mozilla/4.0 (compatible; ms-office; MSOffice 16)": "preview",
    "Microsoft Office Existence Discovery": "preview",
    "Microsoft Office Protocol Discovery": "preview",
    "Mozilla/5.0 (Windows NT 6.1; WOW64) AppleWebKit/534+ (KHTML, like Gecko) BingPreview/1.0b": "preview",
    "Mozilla/5.0 (Windows NT 6.1; WOW64) SkypeUriPreview Preview/0.5": "preview",
    "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)": "preview",
    "Slack-ImgProxy (+https://api.slack.com/robots)": "preview",
    "facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)": "preview",
    "WhatsApp/2.23.20.0 A": "preview",
    "TelegramBot (like TwitterBot)": "preview",
    "Twitterbot/1.0": "preview",
    "LinkedInBot/1.0 (compatible; Mozilla/5.0; Jakarta Commons-HttpClient/3.1)": "preview",
    "Mozilla/5.0 (compatible; Discordbot/2.0; +https://discordapp.com)": "preview",
    "Barracuda Sentinel (EE)": "scanner",
    "Mimecast Ltd": "scanner",
    "Mozilla/5.0 (compatible; proofpoint-url-defense)": "scanner",
    "Symantec Email Security": "scanner",
    "Trend Micro WTP": "scanner",
    "Google-Safety": "scanner",
    "Mozilla/5.0 zgrab/0.x": "scanner",
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 HeadlessChrome/120.0.0.0 Safari/537.36": "scanner",
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)": "bot",
    "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)": "bot",
    "Applebot/0.1 (+http://www.apple.com/go/applebot)": "bot",
    "Mozilla/5.0 (compatible; AhrefsBot/7.0; +http://ahrefs.com/robot/)": "bot",
    "curl/8.4.0": "tool",
    "python-requests/2.32.5": "tool",
    "Python/3.9 aiohttp/3.8.1": "tool",
    "Go-http-client/1.1": "tool",
}
PEOPLE = [
    "",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/124.0.0.0"
    " Safari/537.36",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko)",
    "Mozilla/5.0",  # Apple's mail privacy
    "Mozilla/4.0 (compatible; MSIE 7.0; Windows NT 6.1; WOW64; Trident/7.0; .NET4.0E; Microsoft Outlook"
    " 16.0.9029; ms-office; MSOffice 16)",
    "Microsoft Office/14.0 (Windows NT 6.1; Microsoft Outlook 14.0.5128; Pro; ms-office; MSOffice 14)",
    "Outlook-iOS/709.2226530.prod.iphone (3.24.1)",
    "Mozilla/5.0 (X11; Linux x86_64; rv:115.0) Gecko/20100101 Thunderbird/115.9.0",
    "Mozilla/5.0 (Linux; Android 11; CUBOT NOTE 20) AppleWebKit/537.36 Chrome/96.0 Mobile Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 [FBAN/FBIOS;FBAV/442.0]",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 [LinkedInApp]/9.29",
    "Mozilla/5.0 (Linux; Android 13) AppleWebKit/537.36 Chrome/116.0 Mobile Telegram-Android/10.0.5",
    "okhttp/4.12.0",
]


@pytest.fixture(scope="module")
def agents() -> Agents:
    return Agents(RULES)


@pytest.mark.parametrize("user_agent", KNOWN)
def test_machines_that_say_so_get_their_tag_in_any_case(agents: Agents, user_agent: str) -> None:
    for text in (user_agent, user_agent.upper(), user_agent.lower()):
        assert agents.tag(text.encode()).decode() == KNOWN[user_agent]


@pytest.mark.parametrize("user_agent", PEOPLE)
def test_people_and_what_cannot_be_told_from_them_get_no_tag(agents: Agents, user_agent: str) -> None:
    assert agents.tag(user_agent.encode()) == b""


def test_every_row_is_a_regex_that_may_be_written_and_tags_something(agents: Agents) -> None:
    for row in RULES:
        check_agent_regex(row.user_agent)
        assert any(Agents([row]).tag(known.encode()) for known in KNOWN), row


def test_the_first_rule_that_matches_wins_wherever_it_matches() -> None:
    agents = Agents([AgentRule("late", "two"), AgentRule("early", "one|two")])
    assert agents.tag(b"one two") == b"late"
    assert agents.tag(b"one") == b"early"


def test_a_bar_or_an_anchor_stays_within_its_rule() -> None:
    agents = Agents([AgentRule("a", "^x|^y"), AgentRule("b", "z$")])
    assert [agents.tag(text) for text in (b"x", b"-y", b"-z", b"z-", b"y z")] == [b"a", b"", b"b", b"", b"a"]


def test_a_missing_user_agent_can_have_a_tag() -> None:
    assert Agents([AgentRule("mute", "^$")]).tag(b"") == b"mute"


@pytest.mark.parametrize("rules", [[], [AgentRule("fast", rate=5)]], ids=["no rules", "rates only"])
def test_without_a_regex_no_user_agent_has_a_tag(rules: list[AgentRule]) -> None:
    assert Agents(rules).tag(b"curl/8.4.0") == b""
    assert Agents(rules).tag(b"") == b""


def test_the_tag_of_a_rate_applies_above_it() -> None:
    agents = Agents([AgentRule("curl", "curl"), AgentRule("flood", rate=100), AgentRule("fast", rate=5)])
    assert [agents.rate_tag(rate) for rate in (0, 5, 5.1, 100, 101)] == [b"", b"", b"fast", b"fast", b"flood"]
    assert Agents(RULES).rate_tag(1e9) == b""


def test_a_rule_asks_for_one_thing() -> None:
    for rule in (AgentRule("none"), AgentRule("both", "x", 5), AgentRule("negative", rate=-1)):
        with pytest.raises(ValueError, match="needs either user_agent or rate"):
            Agents([rule])


def test_of_a_long_value_only_the_beginning_is_looked_at() -> None:
    agents = Agents([AgentRule("x", "x")])
    assert agents.tag(b"-" * (VALUE_BYTES - 1) + b"x") == b"x"
    assert agents.tag(b"-" * VALUE_BYTES + b"x") == b""


def test_more_values_than_are_remembered_are_told_all_the_same() -> None:
    agents = Agents([AgentRule("odd", "[13579]$")])
    for _ in range(2):
        for number in range(2 * MEMO_ENTRIES):
            assert agents.tag(b"%d" % number) == (b"odd" if number % 2 else b"")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("curl(", "is no regular expression"),
        ("a)(b", "is no regular expression"),
        ("*", "is no regular expression"),
        ("x{99999999999}", "is no regular expression"),
        ("(?x)curl", "is no regular expression"),
        (r"\1", "is no regular expression"),
        ("(curl)", "has a group that keeps"),
        (r"(?P<name>curl)", "has a group that keeps"),
    ],
)
def test_a_bad_regex_is_refused_with_a_sentence(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        check_agent_regex(text)
    with pytest.raises(ValueError, match=says):
        Agents([AgentRule("tag", text)])


@pytest.mark.parametrize("text", ["", "curl", "^(?:curl|Wget)/", r"\bbot\b", "é", "(?i:x)"])
def test_a_regex_that_can_be_joined_to_others_is_accepted(text: str) -> None:
    check_agent_regex(text)


@pytest.mark.parametrize(
    ("block", "value"),
    [
        (b"", b""),
        (b"Host: a\r\nAccept: */*\r\n", b""),
        (b"User-Agent: x/1\r\nHost: a\r\n", b"x/1"),
        (b"Host: a\r\nuser-agent:x/1 (y)\r\nAccept: */*\r\n", b"x/1 (y)"),
        (b"Host: a\r\nUSER-AGENT: \t x \t \r\n", b"x"),
        (b"user-agent: first\r\nUser-Agent: second\r\n", b"first"),
        (b"X-User-Agent: no\r\nX: User-Agent: no\r\nUser-Agent: yes\r\n", b"yes"),
        (b"User-Agent:\r\nHost: a\r\n", b""),
        (b"User-Agents: x\r\n", b""),
    ],
)
def test_the_value_of_the_first_user_agent_line_is_found(block: bytes, value: bytes) -> None:
    assert user_agent_in(block) == value


LINES = st.lists(
    st.tuples(st.sampled_from([b"Host", b"User-Agent", b"uSER-aGENT", b"X"]), st.binary(max_size=9))
)


@given(LINES)
def test_finding_the_line_is_splitting_and_looking(lines: list[tuple[bytes, bytes]]) -> None:
    lines = [(name, value.translate(None, b"\r\n")) for name, value in lines]
    block = b"".join(b"%b: %b\r\n" % line for line in lines)
    values = [value.strip(b" \t") for name, value in lines if name.lower() == b"user-agent"]
    assert user_agent_in(block) == (values[0] if values else b"")
