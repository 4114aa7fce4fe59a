"""Metrics: the text is the client library's, what is told is right, and what is documented is there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from tests.unit.measured import ODD, filled, seen
from tests.unit.test_certificates import make, put
from trackproxy.admin.metrics import catalogue as m
from trackproxy.admin.metrics.catalogue import catalogue
from trackproxy.admin.metrics.document import document
from trackproxy.admin.metrics.ends import TOLD, Ends
from trackproxy.admin.metrics.exposition import registry_of, written
from trackproxy.admin.metrics.filling import fill
from trackproxy.admin.metrics.processes import usage_of
from trackproxy.admin.metrics.seen import Seen
from trackproxy.admin.metrics.sheet import TOLD_S, Sheet, Writer
from trackproxy.board import BUCKETS_S, HISTOGRAM, Counter, Traffic
from trackproxy.certificates.reading import read
from trackproxy.certificates.sources import Files
from trackproxy.control.traffic import RouteKey
from trackproxy.settings import Settings, load

CONF = Path(__file__).parents[2] / "conf"
OPENMETRICS = "application/openmetrics-text;version=1.0.0"
ACCEPTED = [
    "",
    "*/*",
    "text/plain",
    "text/plain;version=0.0.4;q=0.5",
    "text/plain;version=1.0.0;escaping=allow-utf-8",
    "application/openmetrics-text",
    OPENMETRICS,
    f"{OPENMETRICS};escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.3",
    f"{OPENMETRICS};escaping=underscores",
    f"{OPENMETRICS};escaping=values",
    f"{OPENMETRICS};escaping=dots",
    "application/openmetrics-text;version=2.0.0",
    "text/plain;version=1.0.0;escaping=dots",
]
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def as_library(sheet: Sheet, accept: str) -> tuple[bytes, str]:
    encode, content_type = choose_encoder(accept)
    return encode(registry_of(sheet)), content_type


def samples(text: bytes) -> Samples:
    """What a reader of the text finds."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in read_text(text.decode())
        for sample in family.samples
    }


def plain(sheet: Sheet) -> bytes:
    return written(sheet, "text/plain", Writer())[0]


def fill_of(what: Seen) -> Sheet:
    return fill(what, {}, "1")


def value(found: Samples, name: str, **labels: str) -> float:
    return found[f"trackproxy_{name}", tuple(sorted(labels.items()))]


# --- the text ---


@pytest.mark.parametrize("accept", ACCEPTED)
def test_the_text_is_that_of_the_client_library_byte_for_byte(accept: str) -> None:
    sheet, writer = filled(), Writer()
    for _ in range(2):  # the second time with labels that were written before
        assert written(sheet, accept, writer) == as_library(sheet, accept)


@pytest.mark.parametrize("version", ["x", "1.x", "", "1.0.0.\udcff", "1.0.0.é", "1.0.0.\t", "-1", "9" * 5000])
@pytest.mark.parametrize("kind", ["application/openmetrics-text", "text/plain"])
def test_whatever_is_asked_for_something_is_answered(kind: str, version: str) -> None:
    text, content_type = written(filled(), f"{kind};version={version}", Writer())
    assert samples(text.removesuffix(b"# EOF\n"))
    assert content_type.isascii()


texts = st.text(st.characters(codec="utf-8"), max_size=8)
numbers = st.one_of(st.integers(-5, 1 << 62), st.floats(), st.booleans())


@given(
    st.lists(st.tuples(texts, texts, numbers), max_size=5),
    st.lists(st.lists(st.integers(0, 1 << 40), min_size=HISTOGRAM, max_size=HISTOGRAM), max_size=2),
    st.sampled_from(ACCEPTED),
)
def test_whatever_labels_and_numbers_there_are_the_text_is_that_of_the_library(
    rows: list[tuple[str, str, float]], times: list[list[int]], accept: str
) -> None:
    sheet, writer = Sheet(), Writer()
    for one, other, number in rows:
        sheet.put(m.REDISPATCHES, (one, other), number)
        sheet.put(m.BUILD, (one, other), number)
        sheet.put_times(m.LAG, (one, other), number, [3])
        for counts in times:
            sheet.put_times(m.DURATION, (one, other, "node"), number, counts)
    for _ in range(2):
        assert written(sheet, accept, writer) == as_library(sheet, accept)


def test_texts_of_labels_that_are_gone_are_not_kept() -> None:
    writer = Writer()
    writer.text(filled(20, 20), openmetrics=False)
    writer.text(Sheet(), openmetrics=False)
    assert not writer._texts
    assert not writer._bounded


def test_readers_of_both_formats_understand_the_text() -> None:
    sheet = filled()
    openmetrics = written(sheet, OPENMETRICS, Writer())[0].decode()
    families = list(read_openmetrics(openmetrics))  # type: ignore[no-untyped-call]
    assert [family.name for family in families] == [one.name.removesuffix("_total") for one in catalogue()]
    in_openmetrics = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }
    assert in_openmetrics == samples(plain(sheet))


@needs_promtool
def test_promtool_finds_no_fault_with_the_metrics() -> None:
    check = subprocess.run(["promtool", "check", "metrics"], input=plain(filled()), capture_output=True)
    assert (check.returncode, check.stdout, check.stderr) == (0, b"", b"")


# --- what is told ---


def test_every_metric_is_there_with_the_labels_that_are_documented() -> None:
    for family, metric in zip(registry_of(filled()).collect(), catalogue(), strict=True):
        assert family.samples, metric.name
        labels = {name for sample in family.samples for name in sample.labels} - {"le"}
        assert labels == {*metric.labels}


def test_each_number_of_a_route_is_told_once() -> None:
    what = seen()
    found = samples(plain(filled()))
    for key, counts in what.routes.items():
        own = {"service": key.service, "route": key.route}
        told = [
            number
            for (_, labels), number in found.items()
            if own.items() <= dict(labels).items() and "node" not in dict(labels)
        ]
        expected = counts[Traffic.ACCEPTED + 1 :]
        panic = [1] if key == RouteKey("web0", "") else []
        assert sorted(told) == sorted([*expected, *panic])
        if not key.route:
            assert value(found, "connections_total", service=key.service) == counts[Traffic.ACCEPTED]
            assert value(found, "queue_length", service=key.service) == counts[Traffic.WAITING]


def test_answers_are_told_by_method_and_class() -> None:
    what = seen()
    key = RouteKey("web0", ODD)
    found = samples(plain(filled()))
    own = {"service": "web0", "route": ODD}
    counts = what.routes[key]
    assert value(found, "requests_total", method="GET", **own, **{"class": "1xx"}) == counts[Traffic.ANSWERS]
    assert value(found, "requests_total", method="other", **own, **{"class": "5xx"}) == counts[-1]


def test_answers_that_never_came_are_told_for_gets_alone() -> None:
    what = seen()
    for counts in what.routes.values():
        counts[:] = [0] * len(counts)
    found = samples(plain(fill_of(what)))
    told = [dict(labels) for (name, labels) in found if name == "trackproxy_requests_total"]
    assert {labels["method"] for labels in told} == {"GET"}
    assert len(told) == 4 * len(what.routes)


def test_histograms_hold_what_the_board_has_counted() -> None:
    what = seen()
    one = what.endpoints[0]
    own = {"service": "web0", "route": "", "node": "node0"}
    found = samples(plain(filled()))
    for name, parts, sums in (
        ("duration", (Counter.WHOLE, Counter.DURATION), (Counter.WHOLE_SUM_US, Counter.DURATION_SUM_US)),
        (
            "first_byte",
            (Counter.WHOLE, Counter.FIRST_BYTE),
            (Counter.WHOLE_SUM_US, Counter.FIRST_BYTE_SUM_US),
        ),
        ("connect", (Counter.CONNECT_TIME,), (Counter.CONNECT_SUM_US,)),
    ):
        for bound_s in TOLD_S:
            places = range(BUCKETS_S.index(bound_s) + 1)
            expected = sum(one.counts[part + place] for part in parts for place in places)
            assert value(found, f"endpoint_{name}_seconds_bucket", **own, le=str(bound_s)) == expected
        everything = sum(one.counts[part + place] for part in parts for place in range(HISTOGRAM))
        assert value(found, f"endpoint_{name}_seconds_count", **own) == everything
        assert value(found, f"endpoint_{name}_seconds_bucket", **own, le="+Inf") == everything
        assert (
            value(found, f"endpoint_{name}_seconds_sum", **own)
            == sum(one.counts[cell] for cell in sums) / 1e6
        )


def test_sessions_are_those_that_were_greeted_or_else_connected() -> None:
    what = seen()
    news = what.endpoints[-1]
    own = {"service": "news", "node": "node0"}
    assert value(samples(plain(fill_of(what))), "sessions_total", **own) == news.counts[Counter.STATUS_2XX]
    what.endpoints[-1] = replace(news, greets=False)
    assert value(samples(plain(fill_of(what))), "sessions_total", **own) == news.counts[Counter.CONNECTS]


# --- processes ---


def test_the_kernel_tells_of_a_process_as_long_as_there_is_one() -> None:
    usage = usage_of(os.getpid())
    assert usage is not None
    assert usage.cpu_s > 0
    assert usage.memory_bytes > 1_000_000
    assert 0 < usage.files < usage.most_files
    assert usage.started_s > 1.7e9
    child = subprocess.Popen(["true"])
    child.wait()
    assert usage_of(child.pid) is None


# --- certificates ---


def secured(folder: Path) -> Settings:
    tls = {"listen": ["127.0.0.1:0"], "folder": str(folder)}
    services = {"web": {"protocol": "http", "listen": ["127.0.0.1:0"], "tls": tls}}
    return load(None, {"nodes": {"a": {"address": "127.0.0.1:9"}}, "services": services})


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every question is followed by a look."""
    monkeypatch.setattr("trackproxy.admin.metrics.ends.LOOK_S", 0.0)


async def found_by(ends: Ends, settings: Settings) -> dict[str, float]:
    """Return the ends by name, after a look that has come to its end."""
    await ends.of(settings.services)
    while ends._looking is not None:
        await ends._looking
    return {one.name: one.at_s for one in (await ends.of(settings.services))["web"].soonest}


async def test_ends_of_certificates_are_told_by_first_name_the_soonest_first(tmp_path: Path) -> None:
    for name, days in (("b", 50.0), ("a", 20.0), ("c", 70.0)):
        put(tmp_path / f"{name}.pem", f"{name}.example", f"www.{name}.example", days=days)
    put(tmp_path / "d.pem", "a.example", days=10)
    served = (await Ends().of(secured(tmp_path).services))["web"]
    assert served.count == 4
    assert [end.name for end in served.soonest] == ["a.example", "b.example", "c.example"]
    first, second, _ = (end.at_s for end in served.soonest)
    assert 39 * 86400 < second - first < 41 * 86400


async def test_of_many_certificates_only_those_are_told_that_end_soonest(tmp_path: Path) -> None:
    for number in range(TOLD + 20):
        put(tmp_path / f"{number}.pem", f"{number}.example", days=100 - number)
    told = await found_by(Ends(), secured(tmp_path))
    assert [*told] == [f"{number}.example" for number in reversed(range(20, TOLD + 20))]


async def test_a_certificate_without_a_name_is_told_by_its_file(
    tmp_path: Path,
) -> None:
    chain = make("a.example")
    (tmp_path / "\udcff.pem").write_bytes(b"".join(chain))
    certificate = replace(read(Files(str(tmp_path / "\udcff.pem"), str(tmp_path / "\udcff.pem"))), names=())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trackproxy.certificates.reading.read", lambda files: certificate)
        told = await found_by(Ends(), secured(tmp_path))
    assert [*told] == [f"{tmp_path}/\ufffd.pem"]


@pytest.mark.usefixtures("impatient")
async def test_a_new_certificate_is_told_and_a_broken_one_as_it_was(tmp_path: Path) -> None:
    put(tmp_path / "a.pem", "a.example", days=10)
    ends, settings = Ends(), secured(tmp_path)
    before = await found_by(ends, settings)
    (tmp_path / "a.pem").write_bytes(b"nonsense")
    assert await found_by(ends, settings) == before
    put(tmp_path / "a.pem", "a.example", days=90)
    after = await found_by(ends, settings)
    assert after["a.example"] - before["a.example"] > 79 * 86400


# --- what is written of them ---


def test_the_table_of_metrics_is_what_the_catalogue_says() -> None:
    """`python -m trackproxy.admin.metrics.document > conf/metrics.md` writes it anew."""
    assert (CONF / "metrics.md").read_text() == document()


NAME = re.compile(r"\btrackproxy_[a-z_]+")


def named(text: str) -> set[str]:
    return {*NAME.findall(text)}


def exposed() -> set[str]:
    return {name for name, _ in samples(plain(filled()))}


def test_the_dashboard_and_the_alerts_use_only_metrics_that_exist() -> None:
    for file in ("grafana-dashboard.json", "alerts.yml"):
        text = (CONF / file).read_text()
        assert named(text)
        assert named(text) - exposed() == set(), file


@needs_promtool
def test_promtool_takes_the_alerts_and_they_fire_when_they_should() -> None:
    promtool("check", "rules", "alerts.yml")
    promtool("test", "rules", "alerts_test.yml")


def promtool(*words: str) -> None:
    done = subprocess.run(["promtool", *words], cwd=CONF, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_every_question_of_the_dashboard_is_understood(tmp_path: Path) -> None:
    board = json.loads((CONF / "grafana-dashboard.json").read_text())
    asked = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    rules = [
        {"record": f"question:{number}", "expr": text.replace("$__rate_interval", "5m")}
        for number, text in enumerate(asked)
    ]
    file = tmp_path / "rules.json"  # which is YAML, too
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert len(asked) > 40
    promtool("check", "rules", str(file))


def test_the_dashboard_asks_the_data_source_that_is_chosen() -> None:
    board = json.loads((CONF / "grafana-dashboard.json").read_text())
    sources = {panel["datasource"]["uid"] for panel in board["panels"] if panel["type"] != "row"}
    assert sources == {"${datasource}"}
    assert board["templating"]["list"][0]["type"] == "datasource"
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_every_alert_has_a_test() -> None:
    alerts = re.findall(r"- alert: (\w+)", (CONF / "alerts.yml").read_text())
    tests = (CONF / "alerts_test.yml").read_text()
    assert alerts
    assert [alert for alert in alerts if f"alertname: {alert}" not in tests] == []
