"""Rows of text as an aligned table."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from trackproxy.commands.terminal import printable


def aligned(rows: Iterable[Sequence[str]], numbers: Collection[int] = ()) -> Iterator[str]:
    """Yield a line for each row, two blanks between columns; NUMBERS: columns that are flush right."""
    rows = [list(map(printable, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
