"""Which trackproxy a command is meant for: the one whose state folder its settings name.

Settings are not validated for this: they may be wrong just now, which a reload is to tell.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from trackproxy.control.memory import CONTROL_SOCKET, state_folder
from trackproxy.errors import ConfigError
from trackproxy.sources import Environment, Sources, TomlFile, read_toml

_STATE_DIR = re.compile(r"""\s*state_dir\s*=\s*(?:"([^"\\]*)"|'([^']*)')""")


def find_socket(config: Path | None) -> Path:
    """Return where the trackproxy of CONFIG is reached; raises ConfigError if there is no such file."""
    file = TomlFile() if config is None else _read(config)
    state_dir: Any = Sources(file, Environment(), {}).merged().get("state_dir")
    return state_folder(state_dir if isinstance(state_dir, str) else "") / CONTROL_SOCKET


def _read(config: Path) -> TomlFile:
    """Return a file, or what can be made out of one that is not TOML."""
    try:
        return read_toml(config)
    except ConfigError as broken:
        try:
            text = config.read_text("utf-8", errors="replace")
        except OSError:  # without it, another trackproxy might be taken for the one that is meant
            raise broken from None
        return TomlFile(str(config), _raw_state_dir(text))


def _raw_state_dir(text: str) -> dict[str, Any]:
    """Return the top-level key of broken TOML: what comes before the first table."""
    for line in text.splitlines():
        if line.lstrip().startswith("["):
            break
        if found := _STATE_DIR.match(line):
            return {"state_dir": found[1] or found[2] or ""}
    return {}
