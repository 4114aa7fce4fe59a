"""How commands are listed by --help: in groups, by what they are for."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

SERVE = "To serve"
LOOK = "To see what a running trackproxy does"
CHANGE = "To change what a running trackproxy does"
SHELL = "To make it handy"
PANELS = (SERVE, LOOK, CHANGE, SHELL)


class Grouped(TyperGroup):
    """A command line whose help lists commands by their panel; in a panel, as they were defined."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each panel; typer does not export the types of what it gives."""
        listed = [(name, one) for name, one in self.commands.items() if not one.hidden]
        width = max(len(name) for name, _ in listed)
        for panel in PANELS:
            rows = [
                (name.ljust(width), one.get_short_help_str(formatter.width - width - 6))
                for name, one in listed
                if (getattr(one, "rich_help_panel", None) or SERVE) == panel
            ]
            if rows:
                with formatter.section(panel):
                    formatter.write_dl(rows)
