"""What an operator reads when settings are wrong: a place and a sentence for every problem."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_settings import minimal
from trackproxy.errors import ConfigError
from trackproxy.settings import load

NODES = '[nodes]\nnode1 = { address = "172.16.0.1" }\n'
WEB = '[services.web]\nprotocol = "http"\nlisten = [":8080"]\n'


def problems_in(path: Path, text: str) -> list[str]:
    """The problems of a file with this text, without its folder."""
    path.write_text(text, "utf-8")
    with pytest.raises(ConfigError) as raised:
        load(path)
    return [problem.removeprefix(f"{path.parent}/") for problem in raised.value.problems]


def problem_of(tree: dict[str, Any]) -> str:
    """The only problem of these settings, without its origin."""
    with pytest.raises(ConfigError) as raised:
        load(None, tree)
    (problem,) = raised.value.problems
    return problem.removeprefix("command line: ")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a test writes its file."""
    return tmp_path / "t.toml"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            NODES + WEB + 'balence = "x"\n',
            't.toml:6: services.web.balence: unknown key, did you mean "balance"?',
        ),
        (
            NODES + WEB + "zzz = 1\n",
            "t.toml:6: services.web.zzz: unknown key, known here: protocol, listen, balance, "
            "trusted_proxies, slow_start, panic_threshold, ready_needs_node, outliers, preset, "
            "accept_proxy_protocol, max_connections, max_body, forwarded, via, probe, timeouts, retry, "
            "limits, queue, keepalive, sticky, tls, upstream_tls, per_client, access_log, agents, routes, "
            "nodes",
        ),
        ("worker = 1\n" + NODES + WEB, 't.toml:1: worker: unknown key, did you mean "workers"?'),
        ("_env_file = 1\n" + NODES + WEB, "t.toml:1: _env_file: unknown key, known here: "),
        ('log-level = "info"\n' + NODES + WEB, 't.toml:1: log-level: unknown key, did you mean "log_level"?'),
        (
            NODES + 'node2 = { address = "a", wieght = 3 }\n' + WEB,
            't.toml:3: nodes.node2.wieght: unknown key, did you mean "weight"?',
        ),
        (
            NODES + WEB + "[services.web.timeouts]\n# a comment\n\nheads = 1\n",
            't.toml:9: services.web.timeouts.heads: unknown key, did you mean "head"?',
        ),
        (
            NODES + WEB + "retry.trys = 1\n",
            't.toml:6: services.web.retry.trys: unknown key, did you mean "tries"?',
        ),
        (
            NODES + '[nodes."node1.example"]\naddress = 5\n' + WEB,
            't.toml:4: nodes."node1.example".address: must be an address such as "10.0.0.1", ',
        ),
        (
            NODES + WEB + '[[services.mail]]\nprotocol = "http"\n',
            "t.toml:6: services.mail: must be a table, not a list",
        ),
        (
            'grace = """\n[services.x]\n"""\n' + NODES + WEB,
            't.toml:1: grace: must be a duration such as "5s"',
        ),
    ],
    ids=[
        "typo",
        "nothing near",
        "top level",
        "private name",
        "hyphen",
        "inline table",
        "sub-table",
        "dotted key",
        "quoted name",
        "array of tables",
        "multi-line text",
    ],
)
def test_a_problem_names_the_file_the_line_and_the_setting(path: Path, text: str, problem: str) -> None:
    (found,) = problems_in(path, text)
    assert found.startswith(problem)


def test_a_multi_line_list_counts_as_its_first_line_and_those_after_it_as_theirs(path: Path) -> None:
    text = NODES + '[services.web]\nprotocol = "http"\nlisten = [\n  ":80",\n  "81",\n]\nvia = "a b"\n'
    found = problems_in(path, text)
    assert [problem.partition(": ")[0] for problem in found] == ["t.toml:5", "t.toml:9"]
    assert 'services.web.listen[1]: "81" names no port' in found[0]


def test_every_problem_is_listed_in_the_order_of_the_file(path: Path) -> None:
    found = problems_in(
        path, "workers = -2\n" + NODES + WEB + "forwarded = 5\n[services.web.queue]\nsize = -1\n"
    )
    assert found == [
        't.toml:1: workers: must be "auto" or a whole number from 0 to 256, not -2',
        "t.toml:7: services.web.forwarded: must be true or false, not 5",
        "t.toml:9: services.web.queue.size: must be a whole number from 0 to 1000000, not -1",
    ]


@pytest.mark.parametrize(
    ("service", "sentence"),
    [
        ({"protocol": "gopher"}, 'protocol: must be "http", "nntp", "smtp" or "tcp", not "gopher"'),
        (
            {"balance": "fair"},
            'balance: must be "round_robin", "least_connections", "random_two" or "source_hash"',
        ),
        ({"listen": []}, 'listen: is required, such as [":80"]'),
        ({"listen": ":80"}, 'listen: must be a list, such as ["…"], not ":80"'),
        (
            {"listen": [5]},
            'listen[0]: must be an address such as ":8080", "[::1]:8080" or "unix:/path", not 5',
        ),
        ({"via": "a b"}, "via: must be a token"),
        ({"via": ""}, "via: must be a token"),
        ({"via": 5}, "via: must be text in quotes, not 5"),
        (
            {"max_body": "1.5MB"},
            'max_body: must be a size such as "64KiB", "5MB" or a number of bytes, or "unlim',
        ),
        ({"limits": {"head": 0}}, "limits.head: must be a size such as"),
        ({"limits": 5}, "limits: must be a table, not 5"),
        ({"nodes": []}, "nodes: must be a table, not a list"),
        ({"timeouts": {"head": "5 s"}}, 'timeouts.head: must be a duration such as "5s", "100ms" or "1m30s"'),
        ({"timeouts": {"idle": 0}}, "longer than 0 and at most 7 days, not 0"),
        ({"retry": {"tries": 11}}, "retry.tries: must be a whole number from 1 to 10, not 11"),
        ({"retry": {"tries": True}}, "retry.tries: must be a whole number from 1 to 10, not true"),
        (
            {"retry": {"statuses": [404]}},
            "retry.statuses[0]: must be a whole number from 500 to 599, not 404",
        ),
        ({"panic_threshold": 101}, "panic_threshold: must be a whole number from 0 to 100, not 101"),
        ({"slow_start": -1}, "slow_start: must be"),
        ({"probe": {"type": "ping"}}, 'probe.type: must be "http", "tcp" or "off", not "ping"'),
        ({"probe": {"path": "health"}}, 'probe.path: must be a path such as "/health"'),
        ({"probe": {"host": "a\r\nb: c"}}, 'probe.host: must be a host such as "news.example.com"'),
        ({"probe": {"expect": []}}, "probe.expect: needs at least one entry"),
        ({"probe": {"expect": ["2xx"]}}, "probe.expect[0]: must be a status or a range of them"),
        ({"outliers": {"ejection": 0}}, "outliers.ejection: must be a duration"),
        ({"trusted_proxies": ["10.1.2.3/8"]}, 'did you mean "10.0.0.0/8"?'),
        (
            {"trusted_proxies": ["lan"]},
            'trusted_proxies[0]: must be a network such as "10.0.0.0/8" or an IP addr',
        ),
        (
            {"nodes": {"node1": {"port": 0}}},
            "nodes.node1.port: must be a whole number from 1 to 65535, not 0",
        ),
        ({"nodes": {"nod2": {}}}, 'nodes.nod2: unknown node, did you mean "node2"?'),
        ({"nodes": {"x": {}}}, "nodes.x: unknown node, known here: node1, node2"),
        ({"nodes": {"node1": {"weight": 0}}}, "services.web: has no node with a weight above 0"),
        ({"listen": [":80", "127.0.0.1:80"]}, 'listen[1]: "127.0.0.1:80" is taken by the listener ":80"'),
    ],
)
def test_a_wrong_service_gets_one_sentence(service: dict[str, Any], sentence: str) -> None:
    assert sentence in problem_of(minimal(**service))


@pytest.mark.parametrize("workers", ["", "many", 257, -1, True, 1.5, None])
def test_a_number_of_processes_that_makes_no_sense_is_refused(workers: object) -> None:
    sentence = 'workers: must be "auto" or a whole number from 0 to 256, not '
    assert sentence in problem_of(minimal() | {"workers": workers})


@pytest.mark.parametrize("folder", ["state", "./state", "~/state"])
def test_a_state_folder_has_an_absolute_path(folder: str) -> None:
    assert "state_dir: must be an absolute path, not" in problem_of(minimal() | {"state_dir": folder})


@pytest.mark.parametrize("name", ["", "a b", "-a", "ä", "a" * 64, "a/b"])
def test_a_name_of_a_node_or_service_is_checked(name: str) -> None:
    tree = minimal()
    tree["nodes"][name] = {"address": "a"}
    assert "a name has at most 63 letters, digits" in problem_of(tree)


def test_what_is_required_is_said_to_be() -> None:
    with pytest.raises(ConfigError) as raised:
        load(None, {"nodes": {}, "services": {"web": {}}})
    assert [problem.removeprefix("command line: ") for problem in raised.value.problems] == [
        "nodes: needs at least one entry",
        "services.web.protocol: is required",
    ]


def test_two_services_cannot_share_a_listener(path: Path) -> None:
    text = NODES + WEB + '[services.more]\nprotocol = "http"\nlisten = ["[::1]:81", "[::]:8080"]\n'
    (found,) = problems_in(path, text)
    assert found == 't.toml:8: services.more.listen[1]: "[::]:8080" is taken by the listener ":8080"'


@pytest.mark.parametrize(
    ("variable", "value", "problem"),
    [
        ("WORKER", "1", 'TRACKPROXY_WORKER: worker: unknown key, did you mean "workers"?'),
        (
            "SERVICES__WEB__BALENCE",
            "random_two",
            'TRACKPROXY_SERVICES__WEB__BALENCE: services.web.balence: unknown key, did you mean "balance"?',
        ),
        (
            "SERVICES__WEB__TIMEOUTS__HEAD",
            "soon",
            "TRACKPROXY_SERVICES__WEB__TIMEOUTS__HEAD: services.web.timeouts.head: must be a duration",
        ),
        ("GRACE", "", "TRACKPROXY_GRACE: grace: must be a duration"),
        ("GRACE__X", "1", "TRACKPROXY_GRACE__X: grace: must be a duration"),
        ("SERVICES", "[1", "TRACKPROXY_SERVICES: services: must be a table, not text"),
        ("NODES", '{"\\ud800": 1}', 'TRACKPROXY_NODES: nodes: must be a table, not "{'),
        (
            "SERVICES__WEB__VIA",
            "\udcff",
            "TRACKPROXY_SERVICES__WEB__VIA: services.web.via: must be a token",
        ),
        (
            "SERVICES__WEB__LISTEN",
            '[":80", "b"]',
            'TRACKPROXY_SERVICES__WEB__LISTEN: services.web.listen[1]: "b" names no port',
        ),
    ],
)
def test_a_problem_of_the_environment_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, path: Path, variable: str, value: str, problem: str
) -> None:
    monkeypatch.setenv(f"TRACKPROXY_{variable}", value)
    (found,) = problems_in(path, NODES + WEB)
    assert found.startswith(problem)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (NODES + "a = = 1\n", "t.toml:3:5: Invalid value"),
        (NODES + NODES, "t.toml:3:7: Cannot declare ('nodes',) twice"),
        (NODES + 'a = """\n\n', "t.toml:5: Unterminated string"),
    ],
)
def test_a_syntax_error_has_a_line_and_if_known_a_column(path: Path, text: str, problem: str) -> None:
    assert problems_in(path, text) == [problem]


def test_a_file_that_is_not_utf8_is_refused_with_the_line(path: Path) -> None:
    path.write_bytes(b"workers = 1\n# caf\xe9\n")
    with pytest.raises(ConfigError, match=r"t\.toml:2: is not UTF-8 text"):
        load(path)


def test_a_file_that_cannot_be_read_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file or directory"):
        load(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path)
