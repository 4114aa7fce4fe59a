"""The process that checks settings which somebody has posted: TOML on stdin, findings as JSON on stdout.

It is a process of its own since what was posted may take any time and memory to read, and names files to look
at: here it takes them from nobody, and can be killed. What is found is what `trackproxy check` finds.
"""

from __future__ import annotations

import json
import resource
import sys
from dataclasses import asdict, dataclass, field

from trackproxy.errors import ConfigError
from trackproxy.http_sections import certificates_in
from trackproxy.settings import settings_in
from trackproxy.sources import parse_toml

NAME = "posted"  # what stands before the number of a line
MOST_LINES = 100
CPU_S = 20
MEMORY_BYTES = 1 << 30


@dataclass(slots=True)
class Findings:
    """What is to be said of settings. problems: they are refused, or served but for these."""

    services: int = 0
    nodes: int = 0
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def examine(content: bytes) -> Findings:
    """Return what is to be said of the CONTENT of a settings file; raises nothing for what it holds."""
    try:
        settings = settings_in(parse_toml(NAME, content), {})
    except ConfigError as error:
        return Findings(problems=_first(error.problems))
    except (RecursionError, MemoryError):
        return Findings(problems=[f"{NAME}: is too deep or too large to be read"])
    found = Findings(len(settings.services), len(settings.nodes))
    for where, findings in certificates_in(settings.services):
        found.problems += _first([f"{where}: {text}" for text in findings.problems])
        found.warnings += _first([f"{where}: {text}" for text in findings.warnings])
    return found


def _first(lines: list[str]) -> list[str]:
    left = len(lines) - MOST_LINES
    return lines if left <= 0 else [*lines[:MOST_LINES], f"and {left} more"]


def main() -> None:
    """Examine what comes on stdin."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    sys.stdout.write(json.dumps(asdict(examine(sys.stdin.buffer.read()))))


if __name__ == "__main__":
    main()
