"""A sheet: what all metrics say at one moment, and its text.

`collect` gives it to the official client library, and that can write it. But for 50 nodes in 5 services it
takes some ten times as long as may be; so `text` writes the same, byte for byte, with labels that it has put
into words before.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import accumulate

from prometheus_client.core import Metric as Family
from prometheus_client.utils import floatToGoString

from trackproxy.admin.metrics.catalogue import Metric, catalogue
from trackproxy.board import BUCKETS_S

# Upper bounds of buckets that are told: one for each doubling where answers usually are.
TOLD_S = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0, 4.0, 16.0)
_PLACES = [bisect_left(BUCKETS_S, bound_s) for bound_s in TOLD_S] + [len(BUCKETS_S)]
_BOUNDS: list[str] = [floatToGoString(bound_s) for bound_s in (*TOLD_S, float("inf"))]  # type: ignore[no-untyped-call]

Values = tuple[str, ...]
Row = tuple[Values, float, Sequence[int]]  # labels; number or sum; counts: of buckets, or one in all


class Sheet:
    """Numbers by metric and labels."""

    def __init__(self) -> None:
        self.rows: dict[Metric, list[Row]] = {metric: [] for metric in catalogue()}

    def put(self, metric: Metric, values: Values, number: float) -> None:
        """Tell NUMBER; VALUES: of the metric's labels, in their order."""
        self.rows[metric].append((values, number, ()))

    def put_times(self, metric: Metric, values: Values, total: float, counts: Sequence[int]) -> None:
        """Tell a summary, whose COUNTS is one number, or a histogram, whose COUNTS are the board's."""
        self.rows[metric].append((values, total, counts))

    def collect(self) -> Iterator[Family]:
        """Yield all of it as the client library has it."""
        for metric, rows in self.rows.items():
            family = Family(metric.name.removesuffix("_total"), metric.text, metric.kind)
            for values, number, counts in rows:
                labels = dict(zip(metric.labels, values, strict=True))
                if metric.kind == "histogram":
                    told = _told(counts)
                    for bound, count in zip(_BOUNDS, told, strict=True):
                        family.add_sample(f"{metric.name}_bucket", {**labels, "le": bound}, count)
                    family.add_sample(f"{metric.name}_count", labels, told[-1])
                    family.add_sample(f"{metric.name}_sum", labels, number)
                elif metric.kind == "summary":
                    family.add_sample(f"{metric.name}_count", labels, counts[0])
                    family.add_sample(f"{metric.name}_sum", labels, number)
                else:
                    family.add_sample(metric.name, labels, number)
            yield family


def _told(counts: Sequence[int]) -> list[int]:
    """Return how many were at most as long as each bound that is told."""
    cumulated = [*accumulate(counts)]
    return [cumulated[place] for place in _PLACES]


class Writer:
    """Writes sheets. It knows the text of labels that were on the sheet before."""

    def __init__(self) -> None:
        self._texts: dict[tuple[object, ...], str] = {}
        self._bounded: dict[tuple[object, ...], list[str]] = {}

    def text(self, sheet: Sheet, *, openmetrics: bool) -> bytes:
        """Return SHEET as Prometheus reads it, or in the OpenMetrics format."""
        before, self._texts = self._texts, {}
        bounded, self._bounded = self._bounded, {}
        lines: list[str] = []
        for metric, rows in sheet.rows.items():
            lines.append(_head(metric, openmetrics=openmetrics))
            if metric.kind == "histogram":
                self._write_histograms(lines, metric, rows, before, bounded)
            elif metric.kind == "summary":
                for values, number, counts in rows:
                    labels = self._labels(metric.labels, values, before)
                    lines.append(f"{metric.name}_count{labels} {_number(counts[0])}\n")
                    lines.append(f"{metric.name}_sum{labels} {_number(number)}\n")
            else:
                name, names, labels_of = metric.name, metric.labels, self._labels
                lines += [
                    f"{name}{labels_of(names, values, before)} {_number(number)}\n"
                    for values, number, _ in rows
                ]
        if openmetrics:
            lines.append("# EOF\n")
        return "".join(lines).encode()

    def _write_histograms(
        self,
        lines: list[str],
        metric: Metric,
        rows: list[Row],
        before: dict[tuple[object, ...], str],
        bounded: dict[tuple[object, ...], list[str]],
    ) -> None:
        for values, number, counts in rows:
            key = (metric, values)
            buckets = self._bounded[key] = bounded.get(key) or _buckets(metric, values)
            told = _told(counts)
            lines += [f"{bucket}{_number(count)}\n" for bucket, count in zip(buckets, told, strict=True)]
            labels = self._labels(metric.labels, values, before)
            lines.append(f"{metric.name}_count{labels} {_number(told[-1])}\n")
            lines.append(f"{metric.name}_sum{labels} {_number(number)}\n")

    def _labels(self, names: Values, values: Values, before: dict[tuple[object, ...], str]) -> str:
        key = (names, values)
        text = before.get(key)
        if text is None:
            text = _words(names, values)
        self._texts[key] = text
        return text


def _buckets(metric: Metric, values: Values) -> list[str]:
    """Return the lines of a histogram up to their numbers: the same but for the bound."""
    words = _words((*metric.labels, "le"), (*values, "\0"))
    before, _, after = words.partition('le="\0"')
    return [f'{metric.name}_bucket{before}le="{bound}"{after} ' for bound in _BOUNDS]


def _words(names: Values, values: Values) -> str:
    if not names:
        return ""
    template, order = _shape(names)
    return template % tuple([_quoted(values[place]) for place in order])


@cache
def _shape(names: Values) -> tuple[str, list[int]]:
    """Return labels in the order of their NAMES, as text to put values into, and the places of these."""
    order = sorted(range(len(names)), key=names.__getitem__)
    return "{" + ",".join(f'{names[place]}="%s"' for place in order) + "}", order


def _quoted(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(number: float) -> str:
    """Return it as Go has it: in exponents from a million on."""
    if type(number) is int and 0 <= number < 1_000_000:
        return f"{number}.0"
    return str(floatToGoString(number))  # type: ignore[no-untyped-call]


def _head(metric: Metric, *, openmetrics: bool) -> str:
    text = metric.text.replace("\\", r"\\").replace("\n", r"\n")
    if openmetrics:
        name, text = metric.name.removesuffix("_total"), text.replace('"', r"\"")
    else:
        name = metric.name
    return f"# HELP {name} {text}\n# TYPE {name} {metric.kind}\n"
