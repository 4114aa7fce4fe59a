"""What is to be said about a settings file: whether it would be served, and what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trackproxy.errors import ConfigError
from trackproxy.http_sections import certificates_in
from trackproxy.settings import Settings, load


@dataclass(frozen=True, slots=True)
class Checked:
    """A settings file, checked. settings: None if they are of no use; else problems are of certificates."""

    settings: Settings | None
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def tree(self, config: Path) -> dict[str, Any]:
        """Return all of it as JSON has it; "served": whether serve would start."""
        return {
            "file": str(config),
            "ok": not self.problems,
            "served": self.settings is not None,
            "problems": self.problems,
            "warnings": self.warnings,
            "services": list(self.settings.services) if self.settings else [],
            "nodes": list(self.settings.nodes) if self.settings else [],
        }


def check(config: Path) -> Checked:
    """Check a settings file as serve would, and its certificates one by one."""
    try:
        checked = Checked(load(config, None))
    except ConfigError as error:
        return Checked(None, error.problems)
    assert checked.settings is not None
    for where, findings in certificates_in(checked.settings.services):
        checked.problems.extend(f"{where}: {text}" for text in findings.problems)
        checked.warnings.extend(f"{where}: warning: {text}" for text in findings.warnings)
    return checked
