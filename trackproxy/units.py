"""Notations of the settings: addresses, durations, sizes and networks, as text and as values.

A `Notation` stands in the type of a setting: pydantic reads values through it, messages take its words, and
the list of settings shows a value as it may be written. What cannot be read raises ValueError with a sentence
that an operator can act on.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

MAX_DURATION_S = 7 * 24 * 3600.0
MAX_SPAN_S = 3660 * 24 * 3600.0
MAX_SIZE = 1 << 53  # bytes; beyond any disk, and exact as a float
SUN_PATH_BYTES = 107  # Linux: sockaddr_un.sun_path holds 108 bytes with the closing NUL

EVERYWHERE = frozenset({"", "0.0.0.0", "::"})  # hosts of listeners

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_NUMBER = r"(\d{1,9}(?:\.\d{1,9})?)"
_DURATION = re.compile(rf"(?:{_NUMBER}h)?(?:{_NUMBER}m)?(?:{_NUMBER}s)?(?:{_NUMBER}ms)?", re.ASCII)
_SECONDS = (3600.0, 60.0, 1.0, 0.001)
_SIZE = re.compile(r"(\d{1,16}) ?(|B|kB|KB|MB|GB|KiB|MiB|GiB)", re.ASCII)
_BYTES = {"": 1, "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_BINARY = {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10}
_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")  # RFC 1035, 2.3.4
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


@dataclass(frozen=True, slots=True)
class Notation:
    """How the values of a type are written.

    words: what is expected, as in "must be …".
    parse: returns the value, or None if it cannot be read; raises ValueError where there is more to say.
    show: returns a value as a TOML file would hold it.
    """

    words: str
    parse: Callable[[object], Any]
    show: Callable[[Any], str]

    def read(self, value: object) -> Any:
        """Return the parsed value; raise ValueError with a sentence if there is none."""
        parsed = self.parse(value)
        if parsed is None:
            raise ValueError(f"must be {self.words}, not {quoted(value)}")
        return parsed

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.read, handler(source))


@dataclass(frozen=True, slots=True)
class Hidden:
    """Stands in the type of a setting whose value no message may show."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen or to connect.

    host: a name or an IP address without brackets; empty for every interface (listeners only).
    port: 0 is any free port for a listener, and "none was given" for a node.
    path: of a UNIX socket, else empty; host and port mean nothing beside it.
    """

    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


NOWHERE = Address("", -1)  # of what need not listen at all


def parse_address(text: str, default_port: int | None) -> Address:
    """Return the address that "host", "host:80", "[::1]:80" or "unix:/path" means.

    default_port: the port of an address without one. None reads a listener: it must name its port, may leave
    the host out (":80" is every interface) and may ask for any free port (0).
    """
    if text.startswith("unix:"):
        return Address("", 0, _socket_path(text.removeprefix("unix:")))
    if "://" in text:
        raise ValueError(f'"{text}" is a URL; write only host and port, such as "127.0.0.1:80"')
    host, port = _split(text)
    if not host and default_port is not None:
        raise ValueError(f'"{text}" names no host')
    if port is None and default_port is None:
        example = f":{text}" if text.isdigit() else f"{text}:80"
        raise ValueError(f'"{text}" names no port; did you mean "{example}"?')
    return Address(_host(host), _port(port, default_port))


def overlap(first: Address, second: Address) -> bool:
    """Return whether two listeners want the same socket; every interface includes each of its kind."""
    if first.path or second.path or first.port != second.port or not first.port:
        return bool(first.path) and first.path == second.path
    if first.host == second.host:
        return True
    return not EVERYWHERE.isdisjoint({first.host, second.host}) and bool(_versions(first) & _versions(second))


def _versions(address: Address) -> set[int]:
    """Return the IP versions of a listener; a name, like every interface, may be both."""
    try:
        return {ipaddress.ip_address(address.host).version}
    except ValueError:
        return {4, 6}


def _split(text: str) -> tuple[str, str | None]:
    """Return host and port as text; the port is None if there is no colon for one."""
    if text.startswith("["):
        return _split_brackets(text)
    if text.count(":") > 1:
        raise ValueError(f'"{text}": an IPv6 address stands in brackets, such as "[::1]:80"')
    host, colon, port = text.partition(":")
    return host, port if colon else None


def _split_brackets(text: str) -> tuple[str, str | None]:
    host, bracket, rest = text[1:].partition("]")
    if not bracket or ":" not in host or (rest and not rest.startswith(":")):
        raise ValueError(f'"{text}" is not "[IPv6 address]:port"')
    return host, rest[1:] if rest else None


def _host(host: str) -> str:
    """Return the host, an IP address in its shortest form."""
    if ":" in host or re.fullmatch(r"[0-9.]+", host):
        try:
            return str(ipaddress.ip_address(host))
        except ValueError:
            raise ValueError(f'"{host}" is not a valid IP address') from None
    if host and (len(host) > 253 or not _HOST_NAME.fullmatch(host)):
        raise ValueError(f'"{host}" is not a host name: it holds letters, digits, "-", "_" and "." only')
    return host


def _port(text: str | None, default_port: int | None) -> int:
    if text is None:
        return default_port or 0
    lowest = 0 if default_port is None else 1
    if re.fullmatch(r"[0-9]{1,5}", text) and lowest <= int(text) <= 65535:
        return int(text)
    raise ValueError(f'"{text}" is not a port: a port is a whole number from 1 to 65535')


def _socket_path(path: str) -> str:
    size_bytes = len(path.encode(errors="surrogateescape"))
    if size_bytes > SUN_PATH_BYTES:
        raise ValueError(f"the socket's path has {size_bytes} bytes; the system allows {SUN_PATH_BYTES}")
    if not path.startswith("/") or "\0" in path:
        raise ValueError(f'"unix:{path}": the path of a UNIX socket starts with "/"')
    return path


def parse_duration(value: object) -> float | None:
    """Return the seconds of "5s", "100ms", "1m30s" or a plain number; None if it is none or out of range."""
    seconds = _seconds(value)
    return seconds if seconds is not None and 0 < seconds <= MAX_DURATION_S else None


def _seconds(value: object) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    text = value if isinstance(value, str) else ""
    if re.fullmatch(_NUMBER, text, re.ASCII):
        return float(text)
    match = _DURATION.fullmatch(text) if text else None
    if match is None:
        return None
    numbers = zip(match.groups(default="0"), _SECONDS, strict=True)
    return math.fsum(float(number) * unit for number, unit in numbers)


def format_duration(seconds: float) -> str:
    """Return a usual notation without loss, such as "1h", "75s" or "100ms"."""
    if seconds and seconds % 3600 == 0:
        return f"{seconds / 3600:.0f}h"
    return f"{seconds:.0f}s" if seconds % 1 == 0 else f"{seconds * 1000:.12g}ms"


def parse_pause(value: object) -> float | None:
    """Return seconds, 0 among them; raise ValueError for a duration that is out of bounds."""
    return 0.0 if value in (0, "0", "0s") and not isinstance(value, bool) else parse_duration(value)


def parse_span(value: object) -> float | None:
    """Return the seconds of a duration in which days may be counted, 0 among them, at most ten years."""
    days = re.fullmatch(r"([0-9]{1,4})d", value) if isinstance(value, str) else None
    seconds = float(days[1]) * 86400 if days else _seconds(value)
    return seconds if seconds is not None and 0 <= seconds <= MAX_SPAN_S else None


def parse_size(value: object) -> int | None:
    """Return the bytes of "64KiB", "5MB" or a plain number; None if it is none or out of range."""
    size = _size(value)
    return size if size is not None and 0 <= size <= MAX_SIZE else None


def _size(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    return int(match[1]) * (_BYTES | _BINARY)[match[2]] if match else None


def _size_or_unlimited(value: object) -> int | None:
    return 0 if value == "unlimited" else parse_size(value)


def format_size(size: int) -> str:
    """Return bytes in the largest binary unit that divides them, such as "64KiB", else as a number."""
    for unit, bytes_each in _BINARY.items():
        if size and size % bytes_each == 0:
            return f"{size // bytes_each}{unit}"
    return str(size)


def parse_network(value: object) -> IPNetwork | None:
    """Return the network of "10.0.0.0/8" or of one address; raise ValueError if host bits are set."""
    if isinstance(value, IPNetwork):
        return value
    if not isinstance(value, str):
        return None
    try:
        interface = ipaddress.ip_interface(value)
    except ValueError:
        return None
    if interface.ip != interface.network.network_address:
        raise ValueError(f'"{value}" is an address inside a network; did you mean "{interface.network}"?')
    return interface.network


def parse_whole(value: object) -> int | None:
    """Return a whole number; text is read too, since environment variables are nothing else."""
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,15}", value):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def whole(lowest: int, highest: int) -> Notation:
    """Return the notation of the whole numbers of a range."""

    def parse(value: object) -> int | None:
        number = parse_whole(value)
        return number if number is not None and lowest <= number <= highest else None

    return Notation(f"a whole number from {lowest} to {highest}", parse, str)


def quoted(value: object) -> str:
    """Return a value as TOML would hold it, shortened for a message."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    text = text if len(text) <= 60 else text[:59] + "…"
    return f'"{text}"' if isinstance(value, str) else text


def parse_share(value: object) -> float | None:
    """Return a number from 0 to 1; text is read too, since environment variables are nothing else."""
    text = value if isinstance(value, str) else str(value) if not isinstance(value, bool) else ""
    number = float(text) if re.fullmatch(r"[0-9]{1,9}(?:\.[0-9]{1,18})?(?:e-[0-9]{1,2})?", text) else None
    return number if number is not None and number <= 1 else None


def parse_workers(value: object) -> int | str | None:
    """Return "auto" or a number of processes."""
    number = parse_whole(value)
    return "auto" if value == "auto" else number if number is not None and 0 <= number <= 256 else None


def parse_statuses(value: object) -> str | None:
    """Return one status, "204", or a range of them, "200-399", as `status_range` reads it."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    return text if isinstance(text, str) and _STATUSES.fullmatch(text) and status_range(text) else None


def status_range(text: str) -> range:
    """Return the statuses that a valid text stands for."""
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def _address(value: object, default_port: int | None) -> Address | None:
    if isinstance(value, Address):
        return value
    return parse_address(value, default_port) if isinstance(value, str) and value else None


def _token(text: str) -> str:
    if not _TOKEN.fullmatch(text):
        raise ValueError(f"must be a token (letters, digits and !#$%&'*+-.^_`|~), not {quoted(text)}")
    return text


def _target(text: str) -> str:
    if not re.fullmatch(r"/[!-~]*", text) or "#" in text:
        raise ValueError(f'must be a path such as "/health", in ASCII and without spaces, not {quoted(text)}')
    return text


def _path(text: str) -> str:
    if "?" in _target(text):
        raise ValueError(f"must be a path without a query, not {quoted(text)}")
    return text


def _regex(text: str) -> str:
    """Check what `http.matching` will compile; whatever `re` raises is the operator's mistake."""
    try:
        re.compile(text.encode(), re.ASCII)
    except (re.error, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{quoted(text)} is not a regular expression: {error}") from error
    return text


def _method(text: str) -> str:
    """Check a method: its letters' case counts (RFC 9110, 9.1), and all that are known are in capitals."""
    if _token(text) != text.upper():
        raise ValueError(f"must be in capital letters: {quoted(text.upper())}, not {quoted(text)}")
    return text


def _file_path(text: str) -> str:
    if text and not text.startswith("/"):
        raise ValueError(f"must be an absolute path, not {quoted(text)}")
    return text


def checked_name(text: str) -> str:
    """Return a name; raise ValueError if it is none."""
    if not _NAME.fullmatch(text):
        raise ValueError('a name has at most 63 letters, digits, "_", "." and "-", a letter or digit first')
    return text


def _show_size(size: int) -> str:
    text = format_size(size)
    return text if text.isdigit() else f'"{text}"'


def _token_hash(text: str) -> str:
    if not re.fullmatch("sha256:[0-9a-f]{64}", text):
        raise ValueError('must be what "trackproxy token NAME" shows, which begins with "sha256:"')
    return text


def _parse_admin_address(value: object) -> Address | None:
    return NOWHERE if value in ("", NOWHERE) else _address(value, None)


_STATUSES = re.compile(r"[1-5][0-9][0-9](-[1-5][0-9][0-9])?")
_DURATION_WORDS = 'a duration such as "5s", "100ms" or "1m30s", longer than 0 and at most 7 days'
_SIZE_WORDS = 'a size such as "64KiB", "5MB" or a number of bytes'
_LISTEN_WORDS = 'an address such as ":8080", "[::1]:8080" or "unix:/path"'
_NODE_WORDS = 'an address such as "10.0.0.1", "node1:8080" or "unix:/path"'
_NETWORK_WORDS = 'a network such as "10.0.0.0/8" or an IP address'

Duration = Annotated[
    float, Notation(_DURATION_WORDS, parse_duration, lambda value: quoted(format_duration(value)))
]  # seconds
Pause = Annotated[
    float,
    Notation('a duration such as "5s", or "0s"', parse_pause, lambda value: quoted(format_duration(value))),
]  # seconds
Span = Annotated[
    float,
    Notation(
        'a duration such as "30m" or "365d", or "0s"',
        parse_span,
        lambda value: quoted(format_duration(value)),
    ),
]  # seconds
Share = Annotated[
    float, Notation("a number from 0 to 1, such as 0.1", parse_share, lambda value: f"{value:g}")
]
Workers = Annotated[int | str, Notation('"auto" or a whole number from 0 to 256', parse_workers, quoted)]
Statuses = Annotated[str, Notation('a status or a range of them, such as "200-399"', parse_statuses, quoted)]
Size = Annotated[int, Notation(_SIZE_WORDS, parse_size, _show_size)]  # bytes
PositiveSize = Annotated[
    int, Notation(f"{_SIZE_WORDS}, at least 1", lambda value: parse_size(value) or None, _show_size)
]
SizeOrUnlimited = Annotated[int, Notation(f'{_SIZE_WORDS}, or "unlimited"', _size_or_unlimited, _show_size)]
Network = Annotated[IPNetwork, Notation(_NETWORK_WORDS, parse_network, quoted)]
ListenAddress = Annotated[Address, Notation(_LISTEN_WORDS, lambda value: _address(value, None), quoted)]
AdminAddress = Annotated[
    Address,
    Notation(
        f'{_LISTEN_WORDS}, or ""',
        _parse_admin_address,
        lambda value: quoted("" if value == NOWHERE else str(value)),
    ),
]
NodeAddress = Annotated[Address, Notation(_NODE_WORDS, lambda value: _address(value, 0), quoted)]
Count = Annotated[int, whole(0, 1_000_000)]
Weight = Annotated[int, whole(0, 256)]
Port = Annotated[int, whole(1, 65535)]
Token = Annotated[str, AfterValidator(_token)]
Method = Annotated[str, AfterValidator(_method)]
Target = Annotated[str, AfterValidator(_target)]
Path = Annotated[str, AfterValidator(_path)]
Regex = Annotated[str, AfterValidator(_regex)]
FilePath = Annotated[str, AfterValidator(_file_path)]
Name = Annotated[str, AfterValidator(checked_name)]
TokenHash = Annotated[str, AfterValidator(_token_hash)]
