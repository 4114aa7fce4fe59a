"""The table of all metrics, `conf/metrics.md`: `python -m trackproxy.admin.metrics.document` prints it."""

from __future__ import annotations

import sys

from trackproxy.admin.metrics.catalogue import Metric, catalogue

HEAD = """\
# Metrics

`GET /metrics` of the admin endpoint answers in the text format of Prometheus, or in OpenMetrics. Counters are
exact over all workers, and go on over reloads, crashes of workers and upgrades. Those of a route or a node
begin anew once it was taken out of the settings and has come again; a node that gets another address goes on.
A worker that is killed takes the tries of its last 25 ms along that nobody has answered.
A start of the whole program begins all anew.

Labels: `service` and `route` are names of the settings; the route is empty for requests that none of them
takes, and for endpoints that all routes share. `node` is a node's name, `worker` and `generation` are numbers
as in the log. Histograms have buckets from 0.5 ms to 16 s.

| metric | kind | labels | what it says |
|---|---|---|---|
"""


def document() -> str:
    """Return the table."""
    return HEAD + "".join(map(_line, catalogue()))


def _line(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{metric.name}` | {metric.kind} | {labels} | {metric.text} |\n"


if __name__ == "__main__":
    sys.stdout.write(document())
