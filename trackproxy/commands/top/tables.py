"""The two tables of the live view. What is shown again stays where it is, and so does the cursor."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from rich.text import Text
from textual.coordinate import Coordinate
from textual.widgets import DataTable

from trackproxy.commands.services import HEAD, NUMBERS, service_row
from trackproxy.commands.terminal import printable
from trackproxy.commands.top.rows import COLUMNS, Order, Row, matching

STYLES = {
    "up": "green",
    "ready": "green",
    "degraded": "yellow",
    "starting": "yellow",
    "drain": "yellow",
    "down": "bold red",
    "disabled": "bold magenta",
}
"""By the first word of a cell."""


class ServicesTable(DataTable[Text]):
    """All services, to be looked at."""

    def __init__(self) -> None:
        super().__init__(id="services", cursor_type="none")
        self.can_focus = False

    def on_mount(self) -> None:
        """Name the columns."""
        for place, title in enumerate(HEAD):
            self.add_column(_cell(title, place in NUMBERS))

    def show_services(self, services: Iterable[dict[str, Any]]) -> None:
        """Show services as the admin API describes them."""
        rows = {service["name"]: service_row(service) for service in services}
        cells = [[_cell(text, place in NUMBERS) for place, text in enumerate(row)] for row in rows.values()]
        _fill(self, list(rows), cells)


class NodesTable(DataTable[Text]):
    """All nodes, in the order and with the filter that were chosen; one row has the cursor."""

    def __init__(self) -> None:
        super().__init__(id="nodes", cursor_type="row", fixed_columns=1)
        self.order = Order()
        self.filter = ""
        self._all: list[Row] = []
        self._shown: list[Row] = []

    def on_mount(self) -> None:
        """Name the columns."""
        self._name_columns()

    @property
    def chosen(self) -> Row | None:
        """The row with the cursor."""
        return self._shown[self.cursor_row] if 0 <= self.cursor_row < len(self._shown) else None

    def show_rows(self, rows: Sequence[Row]) -> None:
        """Show what has been seen."""
        self._all = list(rows)
        self._show()

    def choose(self, text: str) -> None:
        """Show rows only that have all words of TEXT."""
        self.filter = text
        self._show()

    def sort_by(self, order: Order) -> None:
        """Show rows in another order."""
        self.order = order
        chosen = self.chosen
        self._name_columns()
        self._show()
        if chosen is not None:
            self.move_cursor(row=[row.key for row in self._shown].index(chosen.key))

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """Sort by a column that was clicked; a second click turns it."""
        place = event.column_index
        self.sort_by(self.order.turned if place == self.order.column else Order(place))

    def _name_columns(self) -> None:
        self.clear(columns=True)
        for place, column in enumerate(COLUMNS):
            mark = self.order.mark if place == self.order.column else ""
            self.add_column(_cell(column.title + mark, column.number), key=column.title)

    def _show(self) -> None:
        self._shown = self.order.of(matching(self._all, self.filter))
        cells = [[_cell(column.text(row), column.number) for column in COLUMNS] for row in self._shown]
        _fill(self, [row.key for row in self._shown], cells)


def _cell(text: str, number: bool) -> Text:
    word = re.match("[a-z]*", text)
    style = STYLES.get(word[0], "") if word else ""
    return Text(printable(text), style, justify="right" if number else "left", no_wrap=True)


def _fill(table: DataTable[Text], keys: list[str], rows: list[list[Text]]) -> None:
    if [row.key.value for row in table.ordered_rows] != keys:
        _replace(table, keys, rows)
        return
    for column, cells in enumerate(zip(*rows, strict=True)):
        _fill_column(table, column, cells)


def _fill_column(table: DataTable[Text], column: int, cells: Sequence[Text]) -> None:
    """Show other cells in a column; it is measured once, since each time takes as long as it has rows."""
    places = [Coordinate(row, column) for row in range(len(cells))]
    changed = [place for place in places if table.get_cell_at(place) != cells[place.row]]
    for place in changed:
        table.update_cell_at(place, cells[place.row], update_width=place is changed[-1])


def _replace(table: DataTable[Text], keys: list[str], rows: list[list[Text]]) -> None:
    old, at = [row.key.value for row in table.ordered_rows], table.cursor_row
    chosen = old[at] if 0 <= at < len(old) else None
    table.clear()
    for key, cells in zip(keys, rows, strict=True):
        table.add_row(*cells, key=key)
    if keys:
        table.move_cursor(row=keys.index(chosen) if chosen in keys else min(max(at, 0), len(keys) - 1))
