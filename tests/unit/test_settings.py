"""Settings: defaults, layers, and the endpoints that they make."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from tests.unit.test_certificates import put
from trackproxy.errors import ConfigError
from trackproxy.explain import explain
from trackproxy.http_sections import HttpService
from trackproxy.route_sections import PLACEHOLDER
from trackproxy.settings import EndpointConfig, Settings, groups_of, load
from trackproxy.units import Address

CONF = Path(__file__).parents[2] / "conf" / "trackproxy.toml"
CLUSTER = CONF.with_name("cluster.toml")

MINIMAL: dict[str, Any] = {
    "nodes": {"node1": {"address": "172.16.0.1"}, "node2": {"address": "172.16.0.2"}},
    "services": {"web": {"protocol": "http", "listen": [":8080"]}},
}


def minimal(**service: Any) -> dict[str, Any]:
    """The smallest settings, and what a test adds to their service."""
    tree = deepcopy(MINIMAL)
    tree["services"]["web"] |= service
    return tree


def web(settings: Settings, name: str = "web") -> HttpService:
    """The HTTP service of that name."""
    service = settings.services[name]
    assert isinstance(service, HttpService)
    return service


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with the smallest settings."""
    path = tmp_path / "trackproxy.toml"
    path.write_text(
        '[nodes]\nnode1 = { address = "172.16.0.1" }\n'
        '[services.Web]\nprotocol = "http"\nlisten = [":8080"]\nbalance = "random_two"\n'
    )
    return path


def test_two_nodes_a_protocol_and_a_listener_are_all_that_is_needed() -> None:
    settings = load(None, MINIMAL)
    assert settings.workers == "auto"
    assert settings.grace == 30.0
    assert settings.services["web"].listen == [Address("", 8080)]
    assert web(settings).timeouts.head == 10.0
    assert web(settings).retry.body == 65536


def test_the_example_configuration_shows_the_defaults() -> None:
    assert load(CONF) == load(None, MINIMAL)


def uncommented(text: str) -> str:
    """A file in which what is a comment holds; of a key that is twice in a table, the last one."""
    lines: list[str] = []
    table = 0  # where the current one begins
    for line in text.splitlines():
        line = re.sub(r"^# (?=\[|[a-z_.]+ = )", "", line)
        if line.startswith("["):
            table = len(lines)
        elif match := re.match(r"[a-z_.]+ = ", line):
            lines[table:] = [old for old in lines[table:] if not old.startswith(match[0])]
        lines.append(line)
    return "\n".join(lines)


def paths_in(tree: Any, path: str = "") -> Iterator[str]:
    """The paths of all values, as the list of settings writes them."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            named = path in ("nodes", "services") or path.endswith(".nodes")
            yield from paths_in(value, f"{path}.{'<name>' if named else key}".removeprefix("."))
    elif isinstance(tree, list) and tree and isinstance(tree[0], dict):
        for value in tree:
            yield from paths_in(value, f"{path}[]")
    else:
        yield path


def test_the_example_configuration_names_every_key() -> None:
    rows = [row.split()[0] for row in explain(Settings) if row and not row.startswith("#")]
    again = re.compile(r"services\.<name>\.routes\[]\.(sticky|probe)(\..*)?")  # these are the service's keys
    keys = {row for row in rows if not again.fullmatch(row)}
    named = set(paths_in(tomllib.loads(uncommented(CONF.read_text("utf-8")))))
    assert keys - named == set()


def test_the_examples_in_the_example_configuration_are_right(tmp_path: Path) -> None:
    text = uncommented(CONF.read_text("utf-8")).replace(PLACEHOLDER, "a secret of our own")
    put(tmp_path / "a.pem", "news.example.com")
    for name in ("/etc/ssl/news.example.com.pem", "/etc/ssl/news.example.com.key"):
        assert name in text
        text = text.replace(name, f"{tmp_path}/a.pem")
    text = text.replace("/etc/letsencrypt/live", str(tmp_path)).replace("/var/log/trackproxy", str(tmp_path))
    (tmp_path / "t.toml").write_text(text, "utf-8")
    service = web(load(tmp_path / "t.toml"))
    assert [route.name for route in service.routes] == ["archive", "click"]
    assert service.sticky.mode == "cookie"
    assert len(service.tls.listen) == 1


def test_the_examples_in_the_cluster_configuration_are_right(tmp_path: Path) -> None:
    begin, mark, end = CLUSTER.read_text("utf-8").partition("# --- newsgroups ---")
    put(tmp_path / "a.pem", "news.example.com")
    text = uncommented(begin).replace("/etc/letsencrypt/live", str(tmp_path)) + mark + end
    (tmp_path / "t.toml").write_text(text, "utf-8")
    with pytest.raises(ConfigError, match="is still the example's"):
        load(tmp_path / "t.toml")
    (tmp_path / "t.toml").write_text(text.replace(PLACEHOLDER, "a secret of our own"), "utf-8")
    service = web(load(tmp_path / "t.toml"))
    assert [route.name for route in service.all_routes] == ["open", "click", "unsubscribe", "web"]
    assert [route.https for route in service.all_routes] == [False, False, False, True]
    assert service.sticky.mode == "cookie"
    load(CLUSTER)


def test_settings_cannot_be_changed() -> None:
    settings = load(None, MINIMAL)
    for section in (settings, settings.services["web"], web(settings).retry):
        with pytest.raises(ValidationError):
            setattr(section, next(iter(type(section).model_fields)), None)


def test_the_environment_stands_over_the_file_and_flags_over_both(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKPROXY_GRACE", "5s")
    monkeypatch.setenv("TRACKPROXY_LOG_LEVEL", "debug")
    monkeypatch.setenv("TRACKPROXY_SERVICES__WEB__TIMEOUTS__HEAD", "1m")
    settings = load(file, {"grace": 7})
    assert settings.grace == 7.0
    assert settings.log_level == "debug"
    assert web(settings, "Web").timeouts.head == 60.0
    assert settings.services["Web"].balance == "random_two"


@pytest.mark.parametrize(
    ("variable", "value", "section", "key", "read"),
    [
        ("TRACKPROXY_WORKERS", "0", (), "workers", 0),
        ("TRACKPROXY_SERVICES__WEB__RETRY__TRIES", "5", ("retry",), "tries", 5),
        ("TRACKPROXY_SERVICES__WEB__FORWARDED", "true", (), "forwarded", True),
        ("TRACKPROXY_SERVICES__WEB__LISTEN", '["127.0.0.1:81"]', (), "listen", [Address("127.0.0.1", 81)]),
        ("TRACKPROXY_SERVICES__WEB__QUEUE", '{"size": 3}', ("queue",), "size", 3),
        ("trackproxy_services__web__max_body", "unlimited", (), "max_body", 0),
    ],
)
def test_a_variable_gives_any_kind_of_value(
    monkeypatch: pytest.MonkeyPatch,
    file: Path,
    variable: str,
    value: str,
    section: tuple[str, ...],
    key: str,
    read: object,
) -> None:
    monkeypatch.setenv(variable, value)
    settings = load(file)
    place: BaseModel = settings if key == "workers" else settings.services["Web"]
    for name in section:
        place = getattr(place, name)
    assert getattr(place, key) == read


def test_settings_may_come_from_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKPROXY_NODES__A__ADDRESS", "10.0.0.1")
    monkeypatch.setenv("TRACKPROXY_SERVICES", '{"web": {"protocol": "http", "listen": [":80"]}}')
    monkeypatch.setenv("TRACKPROXY_SERVICES__WEB__BALANCE", "source_hash")
    settings = load()
    assert groups_of(settings, "web")[0].endpoints == [
        EndpointConfig("a", Address("10.0.0.1", 80), 1, 0, 0, 1.0)
    ]
    assert settings.services["web"].balance == "source_hash"


def test_a_service_without_nodes_of_its_own_has_all_of_them() -> None:
    endpoints = groups_of(load(None, MINIMAL), "web")[0].endpoints
    assert [str(endpoint.address) for endpoint in endpoints] == ["172.16.0.1:80", "172.16.0.2:80"]


def test_a_service_may_narrow_and_adjust_its_nodes() -> None:
    changes = {"priority": 10, "weight": 5, "max_connections": 0, "port": 81, "probe_timeout": 4}
    tree = minimal(nodes={"node2": changes})
    tree["nodes"]["node2"] |= {"max_connections": 7, "weight": 2, "probe_timeout": 3}
    assert groups_of(load(None, tree), "web")[0].endpoints == [
        EndpointConfig("node2", Address("172.16.0.2", 81), 5, 10, 0, 4.0)
    ]


def test_a_node_gives_what_the_service_does_not_change() -> None:
    tree = minimal(nodes={"node2": {}})
    tree["nodes"]["node2"] |= {"max_connections": 7, "weight": 2, "probe_timeout": 3}
    assert groups_of(load(None, tree), "web")[0].endpoints == [
        EndpointConfig("node2", Address("172.16.0.2", 80), 2, 0, 7, 3.0)
    ]


def test_the_probe_gives_the_timeout_that_neither_node_nor_service_changes() -> None:
    (first, second) = groups_of(load(None, minimal(probe={"timeout": "2s"})), "web")[0].endpoints
    assert (first.probe_timeout_s, second.probe_timeout_s) == (2.0, 2.0)


@pytest.mark.parametrize("workers", ["auto", 0, 1, 2, 256])
def test_workers_are_as_many_as_there_are_cpus_or_as_one_says(workers: object) -> None:
    assert load(None, minimal() | {"workers": workers}).workers == workers


def _ports() -> Iterator[tuple[str, dict[str, Any], str]]:
    yield "10.0.0.1", {}, "10.0.0.1:80"
    yield "10.0.0.1:81", {}, "10.0.0.1:81"
    yield "10.0.0.1:81", {"port": 83}, "10.0.0.1:83"
    yield "10.0.0.1:81", {"address": "10.0.0.2"}, "10.0.0.2:81"
    yield "10.0.0.1:81", {"address": "10.0.0.2:82"}, "10.0.0.2:82"
    yield "10.0.0.1:81", {"address": "10.0.0.2:82", "port": 83}, "10.0.0.2:83"
    yield "[::1]", {"port": 83}, "[::1]:83"
    yield "10.0.0.1:81", {"address": "unix:/run/n"}, "unix:/run/n"
    yield "unix:/run/n", {}, "unix:/run/n"
    yield "unix:/run/n", {"address": "10.0.0.2"}, "10.0.0.2:80"


@pytest.mark.parametrize(("own", "changes", "address"), list(_ports()))
def test_the_nearest_port_wins(own: str, changes: dict[str, Any], address: str) -> None:
    tree = minimal(nodes={"node1": changes})
    tree["nodes"]["node1"]["address"] = own
    assert [str(endpoint.address) for endpoint in groups_of(load(None, tree), "web")[0].endpoints] == [
        address
    ]


def test_the_list_of_settings_shows_defaults_as_a_file_would_hold_them() -> None:
    rows = {row.split()[0]: row.split()[1] for row in explain(Settings) if row and not row.startswith("#")}
    assert rows["grace"] == '"30s"'
    assert rows["nodes.<name>.address"] == "required"
    assert rows["services.<name>.limits.target"] == '"8KiB"'
    assert rows["services.<name>.limits.fields"] == "100"
    assert rows["services.<name>.forwarded"] == "false"
    assert rows["services.<name>.nodes.<name>.port"] == "unset"


def test_the_list_of_settings_knows_lists_of_sections_and_sections_that_may_be_left_out() -> None:
    rows = {row.split()[0]: row.split()[1] for row in explain(Settings) if row and not row.startswith("#")}
    assert rows["services.<name>.routes[].name"] == "required"
    assert rows["services.<name>.routes[].path"] == "[]"
    assert rows["services.<name>.routes[].sticky"] == "unset"
    assert rows["services.<name>.routes[].sticky.mode"] == '"off"'
    assert rows["services.<name>.routes[].probe.rise"] == "2"
    assert rows["services.<name>.routes[].timeouts.response"] == "unset"
    assert rows["services.<name>.sticky.idle"] == '"1800s"'
    assert rows["services.<name>.tls.certificates[].certificate"] == "required"
    assert rows["services.<name>.agents.rules[].tag"] == "required"


def test_every_setting_is_described_by_one_sentence() -> None:
    rows = [row for row in explain(Settings) if row and not row.startswith("#")]
    meanings = [re.split(r"\s{2,}", row, maxsplit=2)[2] for row in rows]
    assert [meaning for meaning in meanings if not meaning.endswith(".")] == []
    assert len({row.index(meaning) for row, meaning in zip(rows, meanings, strict=True)}) == 1
