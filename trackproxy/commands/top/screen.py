"""The live view: what `look` sees, once a second, and orders by key.

Whatever waits for the network is in a thread of its own, so that keys are always answered. What was seen last
stays while nobody answers; a line says so, and since when.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, ClassVar

from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Footer, Input, Static

from trackproxy.commands.client import Client, Refused, Unreachable
from trackproxy.commands.events import line_of
from trackproxy.commands.figures import span
from trackproxy.commands.terminal import printable
from trackproxy.commands.top.dialogs import DrainAnswer, DrainDialog, Help, Sure, WeightDialog
from trackproxy.commands.top.look import Look, look
from trackproxy.commands.top.plain import head
from trackproxy.commands.top.rows import COLUMNS, Row, left_without, rows_of
from trackproxy.commands.top.tables import NodesTable, ServicesTable

THEMES = ("ansi-dark", "textual-ansi")  # the terminal's own colours, whatever they are; names of Textual
EVENT_STYLES = {"warning": "yellow", "error": "red"}
TOLD_S = 10.0  # how long a refusal is shown
KEYS = """\
s  sort by the next column        S  the other way round
/  filter (Escape: all again)     p  pause, and go on
d  drain the node                 x  disable it
r  let it take part again         w  change its weight
?  this help                      q  quit

Up and down choose a node; left and right show more
columns; a click on a title sorts by it."""


class Top(App[None]):
    """The live view of one trackproxy. interval_s: from one look to the next."""

    CSS_PATH = "screen.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("d", "drain", "Drain"),
        Binding("x", "disable", "Disable"),
        Binding("r", "ready", "Ready"),
        Binding("w", "weight", "Weight"),
        Binding("s", "sort", "Sort"),
        Binding("S", "turn", "Reverse", show=False),
        Binding("slash", "filter", "Filter"),
        Binding("escape", "unfilter", "All", show=False),
        Binding("p", "pause", "Pause"),
        Binding("question_mark", "help", "Help"),
    ]
    ENABLE_COMMAND_PALETTE = False
    TITLE = "trackproxy top"

    def __init__(self, client: Client, interval_s: float = 1.0) -> None:
        super().__init__(ansi_color=True)  # from the first moment: what NO_COLOR does is decided by it
        self._client = client
        self._interval_s = interval_s
        self._seen: Look | None = None
        self._seen_at = 0.0
        self._looking = False
        self._paused = False
        self._trouble = ""
        self._head = Static(id="head")
        self._trouble_line = Static(id="trouble")
        self._lights = ServicesTable()
        self._table = NodesTable()
        self._detail = Static(id="detail")
        self._news = Static(id="events")
        self._field = Input(id="filter", placeholder="node, service, state, health or address")

    def compose(self) -> ComposeResult:
        """Put everything from top to bottom."""
        yield self._head
        yield self._trouble_line
        yield self._lights
        yield self._table
        yield self._detail
        yield self._news
        yield self._field
        yield Footer(compact=True)

    def on_mount(self) -> None:
        """Begin to look."""
        self.theme = next((name for name in THEMES if name in self.available_themes), self.theme)
        self._table.focus()
        self.set_interval(self._interval_s, self._look_unless_paused)
        self.call_after_refresh(self._look_unless_paused)  # once all parts are there

    # --- looking ---

    def _look_unless_paused(self) -> None:
        if not self._paused and not self._looking:
            self._looking = True
            self._look()
        self._show_head()

    @work(thread=True, group="look")
    def _look(self) -> None:
        """Look, in a thread."""
        try:
            seen = look(self._client)
        except (Unreachable, Refused) as error:
            self.call_from_thread(self._lost, str(error))
        else:
            self.call_from_thread(self._found, seen)

    def _lost(self, reason: str) -> None:
        self._looking = False
        self._trouble = reason
        self._show_head()

    def _found(self, seen: Look) -> None:
        self._looking = False
        self._trouble = ""
        self._seen, self._seen_at = seen, time.monotonic()
        self._lights.show_services(seen.services)
        self._table.show_rows(rows_of(seen.nodes, seen.services))
        self._show_head()
        self._show_detail()
        self._show_events()

    # --- showing ---

    def _show_head(self) -> None:
        lines = list(head(self._seen.status)) if self._seen else [f"trackproxy at {self._client.place}"]
        marks = ["paused"] if self._paused else []
        marks += [f"filter: {self._table.filter}"] if self._table.filter else []
        lines[0] = "   ".join([*marks, lines[0]])
        self._put(self._head, [Text(line) for line in lines])
        self._trouble_line.set_class(bool(self._trouble), "shown")
        since = f" (this is from {span(time.monotonic() - self._seen_at)} ago)" if self._seen else ""
        self._trouble_line.update(Text(f"{printable(self._trouble)}; trying again{since}"))

    def _show_detail(self) -> None:
        row = self._table.chosen
        text = "" if row is None else f"{row.name} in {row.service}"
        if row is not None and row.endpoint is not None:
            text += f", {row.of('address')}: {COLUMNS[-1].text(row)}"
        self._put(self._detail, [Text(text)])

    def _show_events(self) -> None:
        events = self._seen.events if self._seen else []
        if events is None:
            self._put(self._news, [Text("This trackproxy is older, and does not tell of events.")])
            return
        room = max(self._news.size.height, 1)
        styles = [EVENT_STYLES.get(str(event.get("level")), "") for event in events]
        lines = [
            Text(line_of(event, dated=False), style) for event, style in zip(events, styles, strict=True)
        ]
        self._put(self._news, lines[-room:])

    def _put(self, part: Static, lines: list[Text]) -> None:
        """Show lines, each cut to the screen's width."""
        for line in lines:
            line.plain = printable(line.plain)
            line.truncate(self.size.width, overflow="ellipsis")
        part.update(Text("\n").join(lines))

    def on_resize(self) -> None:
        """Show as much as there is room for now."""
        self.call_after_refresh(self._show_events)
        self._show_head()
        self._show_detail()

    def on_data_table_row_highlighted(self) -> None:
        """Tell more of the row."""
        self._show_detail()

    # --- sorting, filtering, pausing ---

    def action_sort(self) -> None:
        """Sort by the next column."""
        self._table.sort_by(self._table.order.next)

    def action_turn(self) -> None:
        """Sort the other way round."""
        self._table.sort_by(self._table.order.turned)

    def action_filter(self) -> None:
        """Ask which rows are wanted."""
        self._field.display = True
        self.screen.set_focus(self._field)  # at once: the next key is for it

    def on_input_changed(self, event: Input.Changed) -> None:
        """Show the rows that are wanted so far."""
        if event.input.id == "filter":
            self._table.choose(event.value)
            self._show_head()
            self._show_detail()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Go back to the table."""
        if event.input.id == "filter":
            self._leave_filter()

    def action_unfilter(self) -> None:
        """Show all rows."""
        self._field.value = ""
        self._leave_filter()

    def _leave_filter(self) -> None:
        self._field.display = False
        self.screen.set_focus(self._table)

    def action_pause(self) -> None:
        """Look no more, or again."""
        self._paused = not self._paused
        self._look_unless_paused()

    def action_help(self) -> None:
        """Tell of all keys."""
        self.push_screen(Help(KEYS, "Close"))

    # --- orders ---

    def action_drain(self) -> None:
        """Ask how the node is to be drained."""
        if (row := self._table.chosen) is None:
            return

        def answered(how: DrainAnswer | None) -> None:
            if how is not None:
                self._do(f"{row.name} is being drained", lambda: self._client.drain(row.name, *how))

        self.push_screen(DrainDialog(f"Drain {row.name}", "Drain", self._warning(row)), answered)

    def action_disable(self) -> None:
        """Disable the node; ask first if nobody else could serve."""
        if (row := self._table.chosen) is None:
            return

        def answered(sure: bool | None) -> None:
            if sure:
                self._do(f"{row.name} is disabled", lambda: self._client.disable(row.name))

        if warning := self._warning(row):
            self.push_screen(Sure(f"Disable {row.name}?", "Disable", warning), answered)
        else:
            answered(True)

    def action_ready(self) -> None:
        """Let the node take part again."""
        if (row := self._table.chosen) is not None:
            self._do(f"{row.name} is ready", lambda: self._client.ready(row.name))

    def action_weight(self) -> None:
        """Ask for the node's weight."""
        if (row := self._table.chosen) is None:
            return

        def answered(text: str | None) -> None:
            if text is None:
                return
            if not re.fullmatch("config|[0-9]{1,9}", text):
                self.notify(f'give a whole number, or "config", not "{text}"', severity="error", markup=False)
                return
            values = {"weight": None if text == "config" else int(text)}
            self._do(f"{row.name} has another weight", lambda: self._client.change(row.name, values))

        now = "" if row.endpoint is None else f", now {row.endpoint['weight']} in {row.service}"
        self.push_screen(WeightDialog(f"Weight of {row.name}{now}", "Change"), answered)

    def _warning(self, row: Row) -> str:
        without = left_without(self._seen.nodes, row.name) if self._seen else []
        return f"No other node can serve {', '.join(without)} now!" if without else ""

    @work(thread=True, group="orders")
    def _do(self, done: str, order: Callable[[], dict[str, Any]]) -> None:
        """Give an order, in a thread, and tell what came of it."""
        try:
            order()
        except (Unreachable, Refused) as error:
            self.call_from_thread(self.notify, str(error), severity="error", timeout=TOLD_S, markup=False)
        else:
            self.call_from_thread(self.notify, done, markup=False)
            self.call_from_thread(self._look_unless_paused)
