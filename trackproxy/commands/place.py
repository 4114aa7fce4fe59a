"""Which trackproxy a command is meant for: the one whose state folder its settings name, or the one at a URL.

Settings are not validated for this: they may be wrong just now, which a reload is to tell. What reads them
in earnest is left alone, too: loading it takes as long as all the rest of a command.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trackproxy.control.memory import CONTROL_SOCKET, state_folder
from trackproxy.errors import ConfigError

VARIABLE = "trackproxy_state_dir"  # in whatever case, as settings are
PORTS = {"http": 80, "https": 443}
TOKEN_CHARS = 512

_STATE_DIR = re.compile(r"""\s*state_dir\s*=\s*(?:"([^"\\]*)"|'([^']*)')""")


@dataclass(frozen=True, slots=True)
class Url:
    """Where an admin endpoint is reached over TCP. path: what stands before /api; no slash at its end."""

    scheme: str
    host: str
    port: int
    path: str

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


def read_url(text: str) -> Url:
    """Return what a text means; raises ValueError, with a sentence, for anything but a plain URL."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(f'"{text}" is no URL: {error}') from error
    if parts.scheme not in PORTS or not parts.hostname:
        raise ValueError(f'give a URL such as "http://127.0.0.1:8400", not "{text}"')
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("give a URL of host, port and path alone; a token is read from --token-file")
    return Url(parts.scheme, parts.hostname, port or PORTS[parts.scheme], parts.path.rstrip("/"))


def read_token(file: Path) -> str:
    """Return the token that is all that a file holds; raises ConfigError, which does not show it."""
    try:
        token = file.read_text("ascii").strip()
    except OSError as error:
        raise ConfigError([f"{file}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{file}: is not a token"]) from error
    if not token or len(token) > TOKEN_CHARS or len(token.split()) != 1:
        raise ConfigError([f"{file}: must hold one token and nothing else"])
    return token


def find_socket(config: Path | None) -> Path:
    """Return where the trackproxy of CONFIG is reached; raises ConfigError if there is no such file."""
    named = {} if config is None else _read(config)
    for name, value in os.environ.items():
        if name.lower() == VARIABLE:
            named = {"state_dir": value}
    state_dir = named.get("state_dir")
    return state_folder(state_dir if isinstance(state_dir, str) else "") / CONTROL_SOCKET


def _read(config: Path) -> dict[str, Any]:
    """Return what a file says, or what can be made out of one that is not TOML."""
    try:
        text = config.read_text("utf-8-sig", errors="replace")
    except OSError as error:  # without it, another trackproxy might be taken for the one that is meant
        raise ConfigError([f"{config}: cannot be read: {error.strerror}"]) from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return _raw_state_dir(text)


def _raw_state_dir(text: str) -> dict[str, Any]:
    """Return the top-level key of broken TOML: what comes before the first table."""
    for line in text.splitlines():
        if line.lstrip().startswith("["):
            break
        if found := _STATE_DIR.match(line):
            return {"state_dir": found[1] or found[2] or ""}
    return {}
