"""Agents: which requests come from no person, told by User-Agent or by how many come.

Mail is fetched by machines as much as by people: image proxies, previews in messengers, scanners that follow
every link. Nodes are told with a tag, and nothing is ever dropped for it. Promise: a person is not tagged.
So a row below names what only machines send; a machine that looks like a browser (Apple's mail privacy) or
like somebody's app (okhttp) has no row.

The trick: one expression of all rows says that most requests match none, and what a value means is
remembered, since few are frequent. Memory and time are bounded: VALUE_BYTES of a value are looked at.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trackproxy.http.fields import RequestFields

MEMO_ENTRIES = 1024
VALUE_BYTES = 256


@dataclass(frozen=True, slots=True)
class AgentRule:
    """What gets a tag: a User-Agent, or a client that asks too fast; a rule has one of the two.

    user_agent: a regular expression to be found in the value, in any case.
    rate: requests per second of one client above which the tag applies; 0 if that is not asked.
    """

    tag: str
    user_agent: str = ""
    rate: int = 0


IMAGE_PROXY, PREVIEW, SCANNER, BOT, TOOL = "image-proxy", "preview", "scanner", "bot", "tool"

# As these agents are known from their operators' pages and from public logs. The first match wins.
RULES: tuple[AgentRule, ...] = (
    AgentRule(IMAGE_PROXY, r"\bGoogleImageProxy\b"),  # Gmail
    AgentRule(IMAGE_PROXY, r"\bYahooMailProxy\b"),
    # Office looks at a link before it is opened. With "Microsoft Outlook" in it, it is a person reading mail.
    AgentRule(PREVIEW, r"\(compatible; ms-office;"),
    AgentRule(PREVIEW, r"\bMicrosoft Office (?:Existence|Protocol) Discovery\b"),
    AgentRule(PREVIEW, r"\b(?:BingPreview|MicrosoftPreview)\b"),
    AgentRule(PREVIEW, r"\bSkypeUriPreview\b"),  # Teams, too
    AgentRule(PREVIEW, r"\bSlack(?:bot\b|-ImgProxy)"),
    AgentRule(PREVIEW, r"\b(?:facebookexternalhit|Facebot)\b"),  # iMessage pretends to be it
    AgentRule(PREVIEW, r"^WhatsApp/"),
    AgentRule(PREVIEW, r"\bTelegramBot\b"),
    AgentRule(PREVIEW, r"\bTwitterbot\b"),
    AgentRule(PREVIEW, r"\bLinkedInBot\b"),
    AgentRule(PREVIEW, r"\bDiscordbot\b"),
    AgentRule(SCANNER, r"\bBarracuda"),  # "Barracuda Sentinel (EE)"
    AgentRule(SCANNER, r"\bMimecast"),
    AgentRule(SCANNER, r"\bProofpoint"),
    AgentRule(SCANNER, r"\b(?:Symantec|MessageLabs)\b"),
    AgentRule(SCANNER, r"\bTrend ?Micro\b"),
    AgentRule(SCANNER, r"\bGoogle-Safety\b"),
    AgentRule(SCANNER, r"\b(?:zgrab|masscan|CensysInspect)\b"),
    AgentRule(SCANNER, r"\b(?:HeadlessChrome|PhantomJS)\b"),
    AgentRule(BOT, r"\b(?:Googlebot|AdsBot-Google|Mediapartners-Google)"),
    AgentRule(BOT, r"\b(?:bingbot|adidxbot|msnbot)\b"),
    AgentRule(BOT, r"\b(?:Applebot|DuckDuckBot|YandexBot|Baiduspider|Yahoo! Slurp)"),
    AgentRule(BOT, r"\b(?:AhrefsBot|SemrushBot|MJ12bot|DotBot|PetalBot)\b"),
    AgentRule(TOOL, r"^(?:curl|Wget|libwww-perl)/"),
    AgentRule(TOOL, r"\b(?:python-requests|python-urllib|python-httpx|aiohttp)/"),
    AgentRule(TOOL, r"^(?:Go-http-client|Apache-HttpClient|Java)/"),
)

# Letter by letter, since it is found fastest so: a search without case cannot skip to the line ends.
_NAME = "".join(f"[{letter.upper()}{letter}]" if letter.isalpha() else letter for letter in "user-agent")
_USER_AGENT = re.compile(rb"\n%b:([^\r\n]*)" % _NAME.encode())


def user_agent_in(block: bytes) -> bytes:
    """Return the value of the first User-Agent line of BLOCK, field lines with CRLF; nothing without one."""
    found = _USER_AGENT.search(b"\n" + block)
    return found[1].strip(b" \t") if found else b""


REFERER, AGENT = b"\nReferer: ", b"\nUser-Agent: "  # as most clients write them
_USER_INFORMATION = re.compile(rb"//[^/?#\s]*@")
_REFERER = re.compile(rb"\n[Rr][Ee][Ff][Ee][Rr][Ee][Rr]:([^\r\n]*)")


def said_in(fields: RequestFields) -> tuple[bytes, bytes]:
    """Return the values of Referer, without a password, and of User-Agent, nothing where there is none."""
    block = fields.usual or b"\n" + fields.forward
    referer_at, agent_at = block.find(REFERER), block.find(AGENT)
    if referer_at < 0 or agent_at < 0:  # most clients send both, in this way of writing
        return without_password(_value(block, _REFERER)), _value(block, _USER_AGENT)
    referer = block[referer_at + len(REFERER) : block.find(b"\r", referer_at)]
    agent = block[agent_at + len(AGENT) : block.find(b"\r", agent_at)]
    return without_password(referer.strip(b" \t")), agent.strip(b" \t")


def without_password(said: bytes) -> bytes:
    """Return a URL, or a line with one, without the name and password of RFC 3986, 3.2.1."""
    return _USER_INFORMATION.sub(b"//", said) if b"@" in said else said


def _value(block: bytes, pattern: re.Pattern[bytes]) -> bytes:
    found = pattern.search(block)
    return found[1].strip(b" \t") if found else b""


def check_agent_regex(text: str) -> None:
    """Raise ValueError, with a sentence, if TEXT cannot be the `user_agent` of a rule."""
    try:
        groups = re.compile(text.encode()).groups
        re.compile(_joined([text]))  # flags for the whole are none for a part
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{text!r} is no regular expression: {error}") from error
    if groups:
        raise ValueError(f"{text!r} has a group that keeps what it matched: write (?:…) instead of (…)")


def _joined(texts: Sequence[str]) -> bytes:
    return "|".join(f"(?:{text})" for text in texts).encode()


class Agents:
    """Tells the tag of a request."""

    def __init__(self, rules: Sequence[AgentRule]) -> None:
        """Raises ValueError, with a sentence, for a bad regex or a rule that asks for both or neither."""
        for rule in rules:
            if bool(rule.user_agent) == (rule.rate > 0):
                raise ValueError(f"the rule for {rule.tag!r} needs either user_agent or rate")
            check_agent_regex(rule.user_agent)
        named = [rule for rule in rules if rule.user_agent]
        self._any = re.compile(_joined([rule.user_agent for rule in named]) if named else b"(?!)", re.I)
        self._each = [(re.compile(rule.user_agent.encode(), re.I), rule.tag.encode()) for rule in named]
        self._rates = [(rule.rate, rule.tag.encode()) for rule in rules if rule.rate]
        self._seen = lru_cache(MEMO_ENTRIES)(self._find)

    def tag(self, user_agent: bytes) -> bytes:
        """Return the tag of the first rule that USER_AGENT matches, nothing if none does."""
        return self._seen(user_agent[:VALUE_BYTES])

    def _find(self, user_agent: bytes) -> bytes:
        if not self._any.search(user_agent):
            return b""
        return next(tag for pattern, tag in self._each if pattern.search(user_agent))

    def rate_tag(self, per_second: float) -> bytes:
        """Return the tag of the first rule whose rate a client with so many requests exceeds, or nothing."""
        return next((tag for rate, tag in self._rates if per_second > rate), b"")
