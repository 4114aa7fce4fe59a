"""What is kept on disk between two runs: the health of endpoints, so that a start is as the last end."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import gettempdir

log = logging.getLogger(__name__)

FILE = "health.json"
CONTROL_SOCKET = "control.sock"  # where commands reach the running supervisor


def state_folder(configured: str) -> Path:
    """Return the folder for state: as configured, systemd's, the system's for root, or the user's own."""
    if configured:
        return Path(configured)
    if given := os.environ.get("STATE_DIRECTORY"):
        return Path(given.partition(":")[0])
    if os.geteuid() == 0:
        return Path("/var/lib/trackproxy")
    return Path(os.environ.get("XDG_STATE_HOME") or _home() / ".local/state") / "trackproxy"


def _home() -> Path:
    """Return the user's folder; in a container the user may have none."""
    try:
        return Path.home()
    except RuntimeError:
        return Path(gettempdir(), f"trackproxy-{os.geteuid()}")


def recall(folder: Path) -> dict[str, bool]:
    """Return whether each endpoint was up at the end of the last run; nothing if that cannot be read."""
    try:
        known = json.loads((folder / FILE).read_text("utf-8"))
        return {key: up for key, up in known.items() if isinstance(up, bool)}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        log.warning("%s is of no use, so every endpoint is probed first: %s", folder / FILE, error)
        return {}


def remember(folder: Path, known: Mapping[str, bool]) -> None:
    """Replace what is on disk in one step; raises OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = folder / f"{FILE}.{os.getpid()}"
    try:
        draft.write_text(json.dumps(dict(known), indent=1), "utf-8")
        draft.replace(folder / FILE)
    finally:
        draft.unlink(missing_ok=True)


class HealthMemory:
    """Whether each endpoint is up, as it was at the last end and is now. up: by the text of its key."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writable = True
        self.up = recall(folder)

    def keep(self, known: Mapping[str, bool]) -> None:
        """Keep what is KNOWN now for the next start; a folder that cannot be written is told once."""
        self.up |= known
        try:
            remember(self._folder, known)
        except OSError as error:
            if self._writable:
                log.warning(
                    "health cannot be kept in %s, so the next start probes first: %s", self._folder, error
                )
            self._writable = False
