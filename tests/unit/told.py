"""What a test has heard of events."""

from __future__ import annotations

import pytest

from trackproxy.telling import Event, event_of


def told(caplog: pytest.LogCaptureFixture, kind: str) -> list[Event]:
    """The events of this KIND that were logged so far, without what they have in common with all others."""
    found = [one for record in caplog.records if (one := event_of(record)) and one["kind"] == kind]
    return [{key: one[key] for key in one if key not in ("at", "kind", "text")} for one in found]
