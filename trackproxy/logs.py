"""Log lines: one format for all processes, to stderr."""

from __future__ import annotations

import logging
import sys


def log_to_stderr(level: str, process: str = "") -> None:
    """Write log lines of LEVEL and above to stderr; PROCESS names the process in each."""
    who = f" {process}:" if process else ""
    logging.basicConfig(
        level=level.upper(),
        format=f"%(asctime)s %(levelname)s{who} %(message)s",
        stream=sys.stderr,
        force=True,
    )
