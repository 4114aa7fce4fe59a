"""Who may ask the admin endpoint for what, when it is reached over TCP or a socket that the settings name.

    its name   Host is ours, so that no page makes a browser take us for its own server (DNS rebinding)
    who asks   a token, or nobody in particular where only this machine can ask
    what for   reading takes the role "read", everything else the role "write"
    from where a change that a browser asks for comes from a page of ours, never from elsewhere (CSRF)

What load balancers look at (/healthz, /readyz) is open to everybody under any name, and the dashboard's files
to everybody: they tell nothing. All of it is decided by what is given here; `guard` brings it to requests.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from trackproxy.admin.problems import Problem
from trackproxy.admin_sections import Admin, Role, Token
from trackproxy.control.audit import LOCAL
from trackproxy.units import EVERYWHERE, quoted

SAFE = frozenset({"GET", "HEAD"})
OPEN = frozenset({"/healthz", "/readyz"})  # routes, as the router knows them
PAGE = frozenset({"/", "/static/{path}"})
JSON = ("application/json",)
TYPES = {"/api/v1/check": ("application/toml", "text/plain", *JSON)}

LOCALHOST = frozenset({"localhost", "127.0.0.1", "::1"})
OWN_PAGES = frozenset({None, "same-origin", "none"})  # Sec-Fetch-Site; none: the user's own doing

FIRST_S, LONGEST_S = 0.1, 2.0  # that the answer to a wrong token waits
FORGET_S = 60.0
MOST_PEERS = 1024

_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9_.-]+))(?::([0-9]{1,5}))?", re.ASCII)
_BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*) *", re.ASCII | re.IGNORECASE)  # RFC 6750, 2.1


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who asks. name: of the token, None without one. by: what says so."""

    role: Role
    by: Literal["token", "socket", "none"]
    name: str | None = None

    @property
    def who(self) -> str:
        """What stands beside a change."""
        return self.name or (LOCAL if self.by == "socket" else "anonymous")


SOCKET = Caller("write", "socket")
ANYBODY = Caller("read", "none")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, as far as it matters for who may make it.

    route: as the router knows it, empty if there is none. local: where it has come in, None if over a unix
    socket. hosts, authorization: all lines of that name. type: of the body, None if there is no body.
    """

    method: str
    route: str
    local: tuple[str, int] | None
    hosts: Sequence[str]
    authorization: Sequence[str] = ()
    origin: str | None = None
    site: str | None = None
    type: str | None = None


class WrongToken(Problem):
    """Nobody has that token."""


def admit(asked: Asked, admin: Admin) -> Caller:
    """Return who asks, if that is allowed; raises Problem if not."""
    if asked.route in OPEN and asked.method in SAFE:
        return ANYBODY
    _must_be_our_name(asked, admin)
    if asked.route in PAGE and asked.method in SAFE:
        return ANYBODY
    caller = _caller(asked, admin)
    if asked.method not in SAFE:
        _may_change(caller)
        _must_come_from_us(asked)
        _must_be_of_a_type(asked)
    return caller


# --- its name ---


def _must_be_our_name(asked: Asked, admin: Admin) -> None:
    if len(asked.hosts) != 1:  # RFC 9112, 3.2
        raise Problem(400, "there must be one Host")
    if not is_ours(asked.hosts[0], asked.local, admin):
        host = quoted(asked.hosts[0])
        raise Problem(421, f"this is not {host}, or that has to stand in admin.hosts of the settings")


def is_ours(host: str, local: tuple[str, int] | None, admin: Admin) -> bool:
    """Whether HOST names us to somebody whose connection has come in at LOCAL."""
    if local is None and not admin.hosts:
        return True  # no browser connects to a unix socket by itself
    found = parsed_host(host)
    if found is None:
        return False
    name, port = found
    if any(own == name and given in (None, port) for own, given in map(_configured, admin.hosts)):
        return True
    return _is_own_address(name, port or 80, local, admin)


def _is_own_address(name: str, port: int, local: tuple[str, int] | None, admin: Admin) -> bool:
    if local is None or port != local[1]:
        return local is None and name == "localhost"
    own = plain_ip(local[0])
    if name in (own, admin.listen.host.lower()) or (name in LOCALHOST and _is_loopback(own)):
        return True
    # An address is never another one's by DNS, and on every interface we do not know all of ours.
    return admin.listen.host in EVERYWHERE and _is_ip(name)


def _configured(host: str) -> tuple[str, int | None]:
    return parsed_host(host) or ("", 0)


def parsed_host(text: str) -> tuple[str, int | None] | None:
    """Return name and port of a Host, in small letters and without brackets; None if it is none."""
    found = _HOST.fullmatch(text)
    if found is None:
        return None
    port = int(found[3]) if found[3] else None
    if found[1]:
        return (plain_ip(found[1]), port) if _is_ip(found[1]) else None
    return found[2].lower(), port


def plain_ip(text: str) -> str:
    """Return an IP address in its shortest form, an IPv4 one inside an IPv6 one as what it is."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_loopback(text: str) -> bool:
    return _is_ip(text) and ipaddress.ip_address(text).is_loopback


# --- who asks, and what for ---


def _caller(asked: Asked, admin: Admin) -> Caller:
    if not admin.tokens:
        return _anonymous(asked)
    if not asked.authorization:
        raise Problem(
            401,
            'a token is needed: send "Authorization: Bearer SECRET"; "trackproxy token NAME" makes one',
            headers={"WWW-Authenticate": 'Bearer realm="trackproxy"'},
        )
    token = holder(asked.authorization, admin.tokens)
    if token is None:
        challenge = 'Bearer realm="trackproxy", error="invalid_token"'  # RFC 6750, 3.1
        raise WrongToken(401, "nobody has this token", headers={"WWW-Authenticate": challenge})
    return Caller(token.role, "token", token.name)


def _anonymous(asked: Asked) -> Caller:
    """Return who asks where no token is needed: a connection may be older than that."""
    if asked.local is None or _is_loopback(plain_ip(asked.local[0])):
        return Caller("write", "none")
    raise Problem(403, "no token is configured any more, so only this machine may ask")


def holder(authorization: Sequence[str], tokens: Sequence[Token]) -> Token | None:
    """Return whose secret stands in the lines of Authorization, None if it is nobody's.

    It takes as long for any secret: each is compared with all.
    """
    said = _BEARER.fullmatch(authorization[0]) if len(authorization) == 1 else None
    digest = hash_of(said[1] if said else "")
    found = None
    for token in tokens:
        if hmac.compare_digest(token.hash, digest):
            found = token
    return found if said else None


def hash_of(secret: str) -> str:
    """Return what settings keep of a secret, which is random and long: no salt is needed."""
    return f"sha256:{hashlib.sha256(secret.encode()).hexdigest()}"


def _may_change(caller: Caller) -> None:
    if caller.role != "write":
        challenge = 'Bearer realm="trackproxy", error="insufficient_scope", scope="write"'
        text = f"{caller.who} may read, but change nothing: that takes a token with the role write"
        raise Problem(403, text, headers={"WWW-Authenticate": challenge})


# --- from where ---


def _must_come_from_us(asked: Asked) -> None:
    if asked.site not in OWN_PAGES:
        raise Problem(403, "a page of another site has asked for a change")
    if asked.origin is not None and not is_same_origin(asked.origin, asked.hosts):
        raise Problem(403, "a page of another origin has asked for a change")


def is_same_origin(origin: str, hosts: Sequence[str]) -> bool:
    """Whether a page of ORIGIN is one of ours, under the name that was asked for.

    Either scheme will do: what ends TLS before us says nothing of it.
    """
    scheme, _, authority = origin.lower().partition("://")
    return scheme in ("http", "https") and [authority] == [host.lower() for host in hosts]


def _must_be_of_a_type(asked: Asked) -> None:
    """Refuse what forms can send, which any page may have sent without being asked."""
    types = TYPES.get(asked.route, JSON)
    if asked.type is not None and asked.type not in types:
        curl = f'as in curl -H "Content-Type: {types[0]}"'
        raise Problem(415, f"a body must be {' or '.join(types)}; say so in Content-Type, {curl}")


# --- wrong tokens ---


@dataclass(slots=True, eq=False)
class Patience:
    """How long the answers to wrong tokens wait: longer each time, up to a bound.

    Nobody is kept out: who has a right token waits for nothing, also where others try from the same address.
    """

    _peers: OrderedDict[str, tuple[int, float]] = field(default_factory=OrderedDict)

    def wrong(self, peer: str, now: float) -> tuple[int, float]:
        """Note a wrong token of PEER; return how many in a row it has sent, and the seconds to wait."""
        key = _network(peer)
        count, last = self._peers.pop(key, (0, now))
        count = count + 1 if now - last < FORGET_S else 1
        self._peers[key] = count, now
        if len(self._peers) > MOST_PEERS:
            self._peers.popitem(last=False)
        return count, min(FIRST_S * 2 ** min(count - 1, 16), LONGEST_S)


def _network(peer: str) -> str:
    """Return what one client can have addresses of: an IPv4 address, or an IPv6 network of 64 bits."""
    plain = plain_ip(peer)
    return str(ipaddress.ip_network(f"{plain}/64", strict=False)) if _is_ip(plain) and ":" in plain else plain
