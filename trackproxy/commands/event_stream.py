"""Server-sent events (WHATWG HTML, 9.2) as the admin API sends them: JSON objects as "data"."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

Event = dict[str, Any]


def events_in(lines: Iterable[bytes]) -> Iterator[Event]:
    """Yield the events of a stream; comments and what is no JSON object are passed over."""
    data: list[str] = []
    for line in lines:
        name, _, value = line.rstrip(b"\r\n").decode(errors="replace").partition(":")
        if name == "data":
            data.append(value.removeprefix(" "))
        elif not line.strip() and data:
            if (event := _event("\n".join(data))) is not None:
                yield event
            data = []


def _event(text: str) -> Event | None:
    try:
        tree = json.loads(text)
    except ValueError:
        return None
    return tree if isinstance(tree, dict) else None
