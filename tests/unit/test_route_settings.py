"""Settings of routes, sticky clients, TLS, quotas and agents: what they add up to, what a problem says."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_certificates import make, put
from tests.unit.test_settings import minimal, web
from tests.unit.test_settings_problems import NODES, WEB, problem_of, problems_in
from trackproxy.commands.which import which
from trackproxy.errors import ConfigError
from trackproxy.explain import explain
from trackproxy.http.agents import check_agent_regex
from trackproxy.http.matching import Matcher, Pattern
from trackproxy.http_sections import HttpService
from trackproxy.pool.rates import LONGEST_S
from trackproxy.presets import PRESETS
from trackproxy.route_sections import BURST_S
from trackproxy.settings import Settings, groups_of, load

SECRET, OTHER_SECRET = "correct-horse-battery", "another-horse-battery"
COOKIE = {"mode": "cookie", "secrets": [SECRET]}


def service_of(**service: Any) -> HttpService:
    """The HTTP service of these settings."""
    return web(load(None, minimal(**service)))


def names(service: HttpService) -> list[str]:
    """The names of its routes, in their order."""
    return [route.name for route in service.all_routes]


# --- what routes add up to ---


def test_without_routes_and_preset_there_are_none() -> None:
    assert service_of().all_routes == []


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_brings_its_routes_of_which_only_web_is_sticky(preset: str) -> None:
    service = service_of(preset=preset, sticky=COOKIE)
    assert names(service) == [row.name for row in PRESETS[preset]]
    modes = {route.name: service.as_seen_by(route).sticky.mode for route in service.all_routes}
    assert {name for name, mode in modes.items() if mode == "cookie"} == {"web"}


def test_own_routes_come_before_those_of_the_preset() -> None:
    routes = [{"name": "b", "path": "/b/"}, {"name": "a", "path": "/a/"}]
    assert names(service_of(preset="sendy", routes=routes))[:3] == ["b", "a", "open"]


@pytest.mark.parametrize(
    "own", [{}, {"host": "a.example"}, {"method": "GET"}], ids=["no condition", "host", "method"]
)
def test_a_route_named_as_one_of_the_preset_changes_that_one_in_its_place(own: dict[str, Any]) -> None:
    routes = [{"name": "web", "https": False}, {"name": "click", "balance": "random_two"} | own]
    service = service_of(preset="list-manager", routes=routes)
    assert names(service) == ["open", "click", "unsubscribe", "web"]
    click = service.all_routes[1]
    assert (click.path, click.balance) == (["/t/"], "random_two")
    assert click.sticky is not None
    assert click.sticky.mode == "off"


def test_a_changed_route_of_a_preset_may_have_another_path() -> None:
    service = service_of(preset="list-manager", routes=[{"name": "click", "path": ["/c/", "/t/"]}])
    assert service.all_routes[1].path == ["/c/", "/t/"]


def test_one_word_stands_for_a_list_of_it() -> None:
    route = {"name": "a", "path": "/a/", "host": "*.Example.com", "method": "GET", "sticky": False}
    (found,) = service_of(routes=[route]).all_routes
    assert (found.path, found.host, found.method) == (["/a/"], ["*.example.com"], ["GET"])


def test_a_route_inherits_what_it_does_not_set() -> None:
    service = service_of(
        balance="random_two", retry={"tries": 5, "budget": 7}, routes=[{"name": "a", "path": "/"}]
    )
    seen = service.as_seen_by(service.routes[0])
    assert seen == service


def test_a_route_changes_single_waits_and_retry_rules() -> None:
    service = service_of(
        timeouts={"head": 1, "response": 2, "response_head": 3},
        retry={"tries": 5, "budget": 7},
        routes=[{"name": "a", "path": "/a", "timeouts": {"response": 9}, "retry": {"tries": 1, "budget": 0}}],
    )
    seen = service.as_seen_by(service.routes[0])
    assert (seen.timeouts.head, seen.timeouts.response, seen.timeouts.response_head) == (1.0, 9.0, 3.0)
    assert (seen.retry.tries, seen.retry.budget, seen.retry.budget_min) == (1, 0, 3)
    assert service.timeouts.response == 2.0


@pytest.mark.parametrize(
    ("own", "mode"),
    [
        ({}, "cookie"),
        ({"sticky": False}, "off"),
        ({"sticky": {"mode": "source_hash"}}, "source_hash"),
    ],
    ids=["left out", "false", "a table"],
)
def test_stickiness_is_inherited_turned_off_or_replaced(own: dict[str, Any], mode: str) -> None:
    service = service_of(sticky=COOKIE, routes=[{"name": "a", "path": "/a"} | own])
    assert service.as_seen_by(service.routes[0]).sticky.mode == mode


def test_false_turns_the_stickiness_of_a_service_off_also_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert service_of(sticky=False).sticky.mode == "off"
    (tmp_path / "t.toml").write_text(f'{NODES}{WEB}sticky = {{ mode = "source_hash" }}\n')
    monkeypatch.setenv("TRACKPROXY_SERVICES__WEB__STICKY", "false")
    assert web(load(tmp_path / "t.toml")).sticky.mode == "off"


@pytest.mark.parametrize(
    ("service", "policy"),
    [
        ({"balance": "random_two"}, "random_two"),
        ({"balance": "random_two", "sticky": COOKIE}, "random_two"),
        ({"balance": "random_two", "sticky": {"mode": "source_hash"}}, "source_hash"),
    ],
)
def test_stickiness_by_source_is_a_policy(service: dict[str, Any], policy: str) -> None:
    assert service_of(**service).picks_by == policy


@pytest.mark.parametrize(
    "own",
    [
        {"nodes": ["node2"]},
        {"probe": {"path": "/a/health"}},
        {"balance": "random_two"},
        {"sticky": {"mode": "source_hash"}},
    ],
    ids=["nodes", "probe", "balance", "source"],
)
def test_a_route_that_knows_nodes_otherwise_has_a_group_of_its_own(own: dict[str, Any]) -> None:
    tree = minimal(routes=[{"name": "a", "path": "/a"} | own, {"name": "b", "path": "/b"}])
    groups = groups_of(load(None, tree), "web")
    assert [group.name for group in groups] == ["", "a"]
    nodes = own.get("nodes", ["node1", "node2"])
    assert [endpoint.node for endpoint in groups[1].endpoints] == nodes


@pytest.mark.parametrize(
    "own",
    [{"sticky": COOKIE}, {"sticky": False}, {"timeouts": {"response": 1}}, {"retry": {"tries": 1}}],
    ids=["cookie", "not sticky", "timeouts", "retry"],
)
def test_other_routes_share_one_group(own: dict[str, Any]) -> None:
    tree = minimal(preset="sendy", routes=[{"name": "a", "path": "/a"} | own])
    assert [group.name for group in groups_of(load(None, tree), "web")] == [""]


def test_the_nodes_of_a_route_are_as_the_service_sees_them() -> None:
    tree = minimal(
        nodes={"node1": {}, "node2": {"port": 81, "weight": 7}},
        probe={"timeout": 4},
        routes=[{"name": "a", "path": "/a", "nodes": ["node2"], "probe": {"timeout": 2}}],
    )
    (endpoint,) = groups_of(load(None, tree), "web")[1].endpoints
    assert (endpoint.address.port, endpoint.weight, endpoint.probe_timeout_s) == (81, 7, 2.0)


def test_nodes_that_name_no_port_are_reached_at_443_with_tls() -> None:
    tree = minimal(upstream_tls={"enabled": True, "verify": False})
    assert {endpoint.address.port for endpoint in groups_of(load(None, tree), "web")[0].endpoints} == {443}


# --- where a problem stands ---

ROUTES = """\
[[services.web.routes]]
name = "a"
path = "/a/"
[services.web.routes.timeouts]
response = 1

[[services.web.routes]]
name = "b"
path = "/b/"
{0}
[services.web.routes.retry]
{1}
[[services.web.agents.rules]]
tag = "x"
rate = 1
[[services.web.agents.rules]]
tag = "y"
{2}
[services.web.agents]
tag = true
"""


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (("pth = 1", "", "rate = 1"), '15: services.web.routes[1].pth: unknown key, did you mean "path"?'),
        (
            ("", "trys = 1", "rate = 1"),
            '17: services.web.routes[1].retry.trys: unknown key, did you mean "tries"?',
        ),
        (
            ("", "", "usr_agent = 1"),
            '23: services.web.agents.rules[1].usr_agent: unknown key, did you mean "user_agent"?',
        ),
        (("https = 7", "", "rate = 1"), "15: services.web.routes[1].https: must be true or false, not 7"),
        (("", "tries = 0", "rate = 1"), "17: services.web.routes[1].retry.tries: must be a whole number"),
        (("", "", "rate = -1"), "23: services.web.agents.rules[1].rate: must be a whole number"),
        (
            ("sticky.mod = 1", "", "rate = 1"),
            '15: services.web.routes[1].sticky.mod: unknown key, did you mean "mode"?',
        ),
        (
            ("probe.fal = 1", "", "rate = 1"),
            '15: services.web.routes[1].probe.fal: unknown key, did you mean "fall"?',
        ),
        (("https = true", "", "rate = 1"), "15: services.web.routes[1].https: needs tls.listen"),
        (("", "", ""), '21: services.web.agents.rules[1]: the rule for "y" needs either'),
    ],
)
def test_a_problem_in_one_of_several_tables_names_its_line_and_its_number(
    tmp_path: Path, lines: tuple[str, str, str], problem: str
) -> None:
    (found,) = problems_in(tmp_path / "t.toml", NODES + WEB + ROUTES.format(*lines))
    assert found.startswith(f"t.toml:{problem}")


def test_a_problem_in_an_inline_list_of_tables_names_its_line(tmp_path: Path) -> None:
    text = NODES + WEB + 'tls.certificates = [\n  { certificat = "/a" },\n]\n'
    found = problems_in(tmp_path / "t.toml", text)
    assert found == [
        "t.toml:6: services.web.tls.certificates[0].certificate: is required",
        't.toml:6: services.web.tls.certificates[0].certificat: unknown key, did you mean "certificate"?',
    ]


def test_a_problem_of_a_variable_with_routes_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKPROXY_SERVICES__WEB__ROUTES", '[{"name": "a", "pth": "/"}]')
    variable = "TRACKPROXY_SERVICES__WEB__ROUTES: "
    assert problem_of(minimal()).removeprefix(variable).startswith("services.web.routes[0].pth: unknown key")


# --- what is wrong alone ---

ROUTE = {"name": "a", "path": "/a/"}


def routed(**route: Any) -> dict[str, Any]:
    """A service with one route, and what a test adds to it."""
    return {"routes": [ROUTE | route]}


@pytest.mark.parametrize(
    ("service", "sentence"),
    [
        ({"routes": {}}, "routes: must be a list of tables, each under [[services.web.routes]]"),
        ({"routes": [5]}, "routes[0]: must be a table, not a number"),
        ({"routes": [{"path": "/"}]}, "routes[0].name: is required"),
        (routed(path=5), 'routes[0].path: must be a list, such as ["…"], not 5'),
        (routed(path="a"), "routes[0].path[0]: must be a path such as"),
        (routed(path="/a?b"), "routes[0].path[0]: must be a path without a query"),
        (routed(regex="("), 'routes[0].regex: "(" is not a regular expression: missing )'),
        (routed(regex="a{99999999999999999999}"), "is not a regular expression: "),
        (routed(host=""), "routes[0].host[0]: must be a host such as"),
        (routed(host="a b"), "routes[0].host[0]: must be a host such as"),
        (routed(method="get"), 'routes[0].method[0]: must be in capital letters: "GET", not "get"'),
        (routed(method=["GET", "a b"]), "routes[0].method[1]: must be a token"),
        (routed(balance="fair"), "routes[0].balance: must be "),
        (routed(clients=["x"]), "routes[0].clients[0]: must be a network"),
        (routed(timeouts=5), "routes[0].timeouts: must be a table, not 5"),
        (routed(timeouts={"response": 0}), "routes[0].timeouts.response: must be a duration"),
        (routed(probe=5), "routes[0].probe: must be a table, not 5"),
        (routed(probe=True), "routes[0].probe: must be a table, not true"),
        (routed(probe={"type": "x"}), 'routes[0].probe.type: must be "http", "tcp" or "off", not "x"'),
        (routed(sticky=True), "routes[0].sticky: must be false, or a table such as { mode ="),
        (routed(sticky={"mode": "on"}), 'routes[0].sticky.mode: must be "off", "cookie", "app_cookie", '),
        ({"probe": {"method": "head"}}, 'probe.method: must be in capital letters: "HEAD", not "head"'),
        ({"sticky": True}, "sticky: must be false, or a table such as { mode ="),
        ({"sticky": "cookie"}, "sticky: must be false, or a table such as { mode ="),
        ({"sticky": 1}, "sticky: must be false, or a table such as { mode ="),
        ({"sticky": {"idle": "x"}}, 'sticky.idle: must be a duration such as "30m" or "365d", or "0s"'),
        ({"sticky": {"path": "/;a"}}, 'sticky.path: must be a path without ";"'),
        ({"sticky": {"domain": "a:1"}}, "sticky.domain: must be a domain such as"),
        ({"tls": {"minimum": "1.1"}}, 'tls.minimum: must be "1.2" or "1.3", not "1.1"'),
        ({"tls": {"minimum": 1.2}}, 'tls.minimum: must be "1.2" or "1.3", not 1.2'),
        ({"tls": {"folder": "certs"}}, 'tls.folder: must be an absolute path, not "certs"'),
        ({"tls": {"certificates": ["/a.pem"]}}, 'tls.certificates[0]: must be a table, not "/a.pem"'),
        ({"upstream_tls": True}, "upstream_tls: must be a table, not true"),
        ({"per_client": {"burst": -1}}, "per_client.burst: must be a whole number"),
        ({"agents": {"rules": [{"tag": "a b", "rate": 1}]}}, "agents.rules[0].tag: must be a token"),
        ({"agents": {"rules": [{"rate": 1}]}}, "agents.rules[0].tag: is required"),
        (
            {"agents": {"rules": [{"tag": "a", "user_agent": "(a)"}]}},
            'agents.rules[0].user_agent: "(a)" has a group that keeps what it matched: write (?:…)',
        ),
        (
            {"agents": {"rules": [{"tag": "a", "user_agent": "(?i)a"}]}},
            'agents.rules[0].user_agent: "(?i)a" cannot be a part of a regular expression: global flags',
        ),
    ],
)
def test_a_wrong_value_gets_one_sentence(service: dict[str, Any], sentence: str) -> None:
    assert sentence in problem_of(minimal(**service))


WRONG = [5, "\0", True, 1.5, None, [], {}, [5], [[]], [{}], ["\0"], {"x": 1}]
PLACES = [row.split()[0] for row in explain(Settings) if row and not row.startswith("#")]


def problems_with(tree: dict[str, Any]) -> list[str]:
    """All problems of these settings."""
    try:
        load(None, tree)
    except ConfigError as error:
        return error.problems
    return []


def tree_with(protocol: str, keys: list[str], value: object) -> dict[str, Any]:
    """Settings that are nearly empty, with a value where the keys lead."""
    tree: Any = {"nodes": {"n": {"address": "a"}}, "services": {"n": {"protocol": protocol}}}
    table = tree
    for key in keys[:-1]:
        table = table.setdefault(
            "n" if key == "<name>" else key.removesuffix("[]"), [{}] if "[]" in key else {}
        )
        table = table[0] if "[]" in key else table
    table["n" if keys[-1] == "<name>" else keys[-1].removesuffix("[]")] = value
    return tree  # type: ignore[no-any-return]


@pytest.mark.parametrize("value", WRONG, ids=map(str, WRONG))
@pytest.mark.parametrize("protocol", ["http", "smtp"])
def test_whatever_stands_in_a_setting_is_answered_in_our_own_words(protocol: str, value: object) -> None:
    for place in PLACES:
        for size in range(1, place.count(".") + 2):
            found = problems_with(tree_with(protocol, place.split(".")[:size], value))
            assert not re.search(r"Input should|valid \w+ type|pydantic", "\n".join(found))


def _match(text: str) -> None:
    Matcher([Pattern(regex=text)])


@pytest.mark.parametrize("text", ["a", "^a|b$", "(?:a)", "(a)", "(?i)a", "(", "a{99999999999999}", "é", "[a"])
def test_regular_expressions_are_refused_where_the_data_path_would_refuse_them(text: str) -> None:
    rule = {"tag": "a", "user_agent": text}
    agents = {"tag": True, "rules": [rule]}
    assert bool(problems_with(minimal(agents=agents))) == refuses(check_agent_regex, text)
    assert bool(problems_with(minimal(**routed(regex=text)))) == refuses(_match, text)


def refuses(check: Callable[[str], None], text: str) -> bool:
    """Whether a check of the data path raises."""
    try:
        check(text)
    except ValueError:
        return True
    return False


# --- secrets ---


@pytest.mark.parametrize(
    "sticky",
    [
        SECRET,
        [SECRET],
        {"mode": "cookie", "secrets": SECRET},
        {"mode": "cookie", "secrets": {SECRET: SECRET}},
        {"mode": "cookie", "secrets": [[SECRET]]},
        {"mode": "cookie", "secrets": [SECRET, SECRET[:15]]},
        {"mode": "cookie", "secrets": [{"a": SECRET}]},
        {"mode": "cookie", "secrets": [31415926535897932384]},
        {"mode": "cookie", "secret": [SECRET]},
        {"mode": "off", "secrets": [SECRET]},
    ],
)
def test_no_message_shows_a_secret(sticky: object) -> None:
    for service in ({"sticky": sticky}, {"routes": [ROUTE | {"sticky": sticky}]}):
        text = problem_of(minimal(**service))
        assert SECRET not in text
        assert SECRET[:15] not in text
        assert "31415926" not in text


@pytest.mark.parametrize("name", ["", "__WEB", "__WEB__STICKY", "__WEB__ROUTES", "__WEB__STICKY__SECRETS"])
def test_no_message_shows_a_secret_in_a_variable_that_is_not_json(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"TRACKPROXY_SERVICES{name}", f'{{"{SECRET}')
    assert SECRET not in problem_of(minimal(sticky={"mode": "cookie"}))


# --- what is wrong together ---


@pytest.mark.parametrize(
    ("service", "sentence"),
    [
        ({"listen": []}, 'listen: is required, such as [":80"]'),
        ({"accept_proxy_protocol": True}, 'accept_proxy_protocol: needs trusted_proxies, such as ["10.0.0.'),
        (
            {"preset": "list_manger"},
            'preset: must be one of "list-manager", "listmonk", "mautic", "phplist", "sendy", '
            'not "list_manger"; did you mean "list-manager"?',
        ),
        (
            {"sticky": {"mode": "cookie"}},
            "sticky.secrets: is required to sign cookies, the same everywhere; a",
        ),
        ({"sticky": {"secrets": [SECRET]}}, 'sticky.secrets: means nothing without mode = "cookie"'),
        ({"sticky": {"mode": "app_cookie"}}, "sticky.name: is required: what the nodes call their session"),
        ({"sticky": {"mode": "parameter"}}, "sticky.name: is required: what the nodes call their session"),
        (routed(sticky={"mode": "cookie"}), "routes[0].sticky.secrets: is required to sign cookies"),
        (routed(https=True), 'routes[0].https: needs tls.listen = [":443"] in the service'),
        (routed(nodes=["node3"]), 'routes[0].nodes[0]: unknown node, did you mean "node'),
        (
            {"nodes": {"node1": {}}} | routed(nodes=["node2"]),
            'routes[0].nodes[0]: "node2" is no node of the service, which has node1',
        ),
        (
            {"nodes": {"node1": {}, "node2": {"weight": 0}}} | routed(nodes=["node2"]),
            "routes[0]: has no node with a weight above 0, so nobody would serve it",
        ),
        ({"routes": [ROUTE, ROUTE]}, 'routes[1].name: "a" is taken by another route'),
        ({"per_client": {"burst": 5}}, "per_client.burst: means nothing without max_request_rate"),
        (
            {"per_client": {"burst": 5, "max_request_rate": 6}},
            "per_client.burst: must be at least max_request_rate, 6: so many may always come at once",
        ),
        (
            {"per_client": {"burst": 36001, "max_request_rate": 10}},
            "per_client.burst: may be at most 3600 times max_request_rate, 36000",
        ),
        ({"agents": {"rules": [{"tag": "a", "rate": 1}]}}, "agents.rules: means nothing without tag = true"),
        (
            {"agents": {"tag": True, "rules": [{"tag": "a"}]}},
            'agents.rules[0]: the rule for "a" needs either user_agent or rate',
        ),
        (
            {"agents": {"tag": True, "rules": [{"tag": "a", "rate": 1, "user_agent": "b"}]}},
            'agents.rules[0]: the rule for "a" needs either user_agent or rate',
        ),
        (
            {"tls": {"listen": [":8443"]}},
            'tls.listen: needs certificates = [{ certificate = "/path/to/fullchain.pem", private_key = ',
        ),
        (
            {"tls": {"certificates": [{"certificate": "/a.pem"}]}},
            'tls.certificates: means nothing without listen = [":443"]',
        ),
        ({"tls": {"folder": "/a"}}, 'tls.folder: means nothing without listen = [":443"]'),
        ({"tls": {"hsts": "365d"}}, 'tls.hsts: means nothing without listen = [":443"]'),
        ({"tls": {"port": 443}}, 'tls.port: means nothing without listen = [":443"]'),
        ({"upstream_tls": {"ca_file": "/a"}}, "upstream_tls.ca_file: means nothing without enabled = true"),
        (
            {"upstream_tls": {"server_name": "a"}},
            "upstream_tls.server_name: means nothing without enabled = true",
        ),
        (
            {"upstream_tls": {"enabled": True, "verify": False, "ca_file": "/a"}},
            "upstream_tls.ca_file: means nothing with verify = false",
        ),
        (
            {"upstream_tls": {"enabled": True, "ca_file": "/none/a.pem"}},
            "upstream_tls.ca_file: /none/a.pem cannot be read: No such file or directory",
        ),
    ],
)
def test_values_that_contradict_each_other_get_one_sentence(service: dict[str, Any], sentence: str) -> None:
    assert problem_of(minimal(**service)).startswith(f"services.web.{sentence}")


def test_an_unknown_preset_without_a_near_one_is_answered_with_all_of_them() -> None:
    text = problem_of(minimal(preset="zzz"))
    assert text.endswith('"mautic", "phplist", "sendy", not "zzz"')


def test_the_longest_burst_is_what_the_tables_of_rates_can_count() -> None:
    assert BURST_S == LONGEST_S
    service_of(per_client={"burst": 3600, "max_request_rate": 1})


# --- the order of routes ---


@pytest.mark.parametrize(
    "wide",
    [{}, {"path": ["/x/", "/"]}, {"host": "*"}, {"path": "/", "regex": "x"}],
    ids=["no condition", "any path", "any host", "path or regex"],
)
def test_a_route_after_one_that_takes_everything_is_a_mistake(wide: dict[str, Any]) -> None:
    routes = [{"name": "all"} | wide, ROUTE]
    sentence = 'services.web.routes[1]: "a" comes after "all", which takes everything'
    assert problem_of(minimal(routes=routes)) == sentence


@pytest.mark.parametrize("narrow", [{"path": "/x"}, {"host": "a.example"}, {"method": "GET"}, {"regex": "x"}])
def test_a_route_after_one_with_a_condition_is_none(narrow: dict[str, Any]) -> None:
    service_of(routes=[{"name": "some"} | narrow, ROUTE, {"name": "rest"}])


def test_nothing_of_a_preset_may_be_left_to_a_route_that_takes_everything() -> None:
    assert problem_of(minimal(preset="phplist", routes=[ROUTE, {"name": "all"}])) == (
        "services.web.routes[1]: takes everything, so nothing is left for the preset's open, click, web"
    )


def test_the_last_route_of_a_preset_may_be_changed_before_others_are_named() -> None:
    service_of(preset="sendy", routes=[{"name": "web", "balance": "random_two"}, ROUTE])


# --- names of cookies ---


@pytest.mark.parametrize(
    ("first", "second", "key"),
    [
        (COOKIE, COOKIE | {"secrets": [OTHER_SECRET]}, "secrets"),
        (COOKIE, COOKIE | {"idle": 7}, "idle"),
        (COOKIE, COOKIE | {"path": "/a"}, "path"),
        (COOKIE | {"name": "s"}, {"mode": "app_cookie", "name": "s"}, "mode"),
        ({"mode": "parameter", "name": "s"}, {"mode": "parameter", "name": "s", "idle": 7}, "idle"),
    ],
)
def test_one_name_means_one_thing_within_a_service(
    first: dict[str, Any], second: dict[str, Any], key: str
) -> None:
    problem = f'.sticky.name: "{first.get("name", "TPNODE")}" is used by'
    end = f" too, with another {key}; take another name"
    assert problem_of(minimal(sticky=first, **routed(sticky=second))) == (
        f"services.web.routes[0]{problem} the service{end}"
    )
    routes = [ROUTE | {"sticky": first}, {"name": "b", "path": "/b", "sticky": second}]
    assert problem_of(minimal(routes=routes)) == f'services.web.routes[1]{problem} route "a"{end}'


@pytest.mark.parametrize(
    "second",
    [
        COOKIE,
        COOKIE | {"name": "OTHER", "idle": 7},
        {"mode": "off"},
        {"mode": "source_hash"},
    ],
    ids=["the same", "another name", "off", "no name looked for"],
)
def test_ways_to_stay_may_be_the_same_or_have_another_name(second: dict[str, Any]) -> None:
    service_of(sticky=COOKIE, **routed(sticky=second))


def test_a_parameter_may_be_called_as_a_cookie_is() -> None:
    sticky = {"name": "s", "mode": "app_cookie"}
    service_of(sticky=sticky, **routed(sticky=sticky | {"mode": "parameter"}))


# --- certificates ---


def tls(path: Path, *certificates: tuple[str, str], **more: Any) -> dict[str, Any]:
    """A service with a listener for TLS, and certificates in a folder."""
    rows = [
        {"certificate": f"{path}/{one}"} | ({"private_key": f"{path}/{key}"} if key else {})
        for one, key in certificates
    ]
    return minimal(tls={"listen": [":8443"], "certificates": rows} | more)


@pytest.fixture
def pems(tmp_path: Path) -> Path:
    """A folder: good.pem with both; cert.pem and key.pem; other.key of another one; no.pem."""
    put(tmp_path / "good.pem", "a.example")
    certificate, key = make("b.example")
    (tmp_path / "cert.pem").write_bytes(certificate)
    (tmp_path / "key.pem").write_bytes(key)
    (tmp_path / "other.key").write_bytes(make("c.example")[1])
    (tmp_path / "no.pem").write_text("this is none\n")
    (tmp_path / "empty").mkdir()
    return tmp_path


def test_certificates_are_named_one_by_one_or_in_a_folder(pems: Path) -> None:
    load(None, tls(pems, ("good.pem", ""), ("cert.pem", "key.pem")))
    put(pems / "empty" / "a.pem", "a.example")
    load(None, tls(pems, folder=f"{pems}/empty"))


@pytest.mark.parametrize(
    ("certificate", "key", "sentence"),
    [
        ("none.pem", "", "{0}/none.pem cannot be read: No such file or directory"),
        ("cert.pem", "none.key", "{0}/none.key cannot be read: No such file or directory"),
        ("cert.pem", "", "{0}/cert.pem holds no PEM key"),
        ("cert.pem", "no.pem", "{0}/no.pem holds no PEM key"),
        ("no.pem", "key.pem", "{0}/no.pem holds no PEM certificate"),
        (
            "cert.pem",
            "other.key",
            "the key in {0}/other.key does not belong to the certificate in {0}/cert.pem",
        ),
    ],
)
def test_a_certificate_that_cannot_be_used_says_which_file_and_why(
    pems: Path, certificate: str, key: str, sentence: str
) -> None:
    assert problem_of(tls(pems, ("good.pem", ""), (certificate, key))) == (
        f"services.web.tls.certificates[1]: {sentence.format(pems)}"
    )


@pytest.mark.parametrize(
    ("folder", "sentence"),
    [
        ("empty", "{0}/empty holds no certificates"),
        ("none", "{0}/none cannot be read: No such file or directory"),
    ],
)
def test_a_folder_without_certificates_is_a_problem(pems: Path, folder: str, sentence: str) -> None:
    assert problem_of(tls(pems, ("good.pem", ""), folder=f"{pems}/{folder}")) == (
        f"services.web.tls.folder: {sentence.format(pems)}"
    )


@pytest.mark.parametrize(
    ("ciphers", "sentence"),
    [
        ("ROT13", '"ROT13" is no cipher that OpenSSL knows'),
        ("TLS_AES_128_GCM_SHA256", '"TLS_AES_128_GCM_SHA256" is a cipher of TLS 1.3, which are always on'),
    ],
)
def test_ciphers_are_asked_of_openssl(pems: Path, ciphers: str, sentence: str) -> None:
    assert problem_of(tls(pems, ("good.pem", ""), ciphers=ciphers)).startswith(
        f"services.web.tls.ciphers: {sentence}"
    )


def test_authorities_of_nodes_are_read(pems: Path) -> None:
    load(None, minimal(upstream_tls={"enabled": True, "ca_file": f"{pems}/cert.pem"}))
    assert problem_of(minimal(upstream_tls={"enabled": True, "ca_file": f"{pems}/no.pem"})) == (
        f"services.web.upstream_tls.ca_file: {pems}/no.pem holds no PEM certificates"
    )


# --- listeners ---


def test_a_service_with_tls_alone_needs_no_other_listener(pems: Path) -> None:
    tree = tls(pems, ("good.pem", ""))
    tree["services"]["web"]["listen"] = []
    service = web(load(None, tree))
    assert ([str(one) for one in service.listeners], len(service.tls.listen)) == ([":8443"], 1)


def test_a_listener_is_either_with_tls_or_without(pems: Path) -> None:
    tree = tls(pems, ("good.pem", ""), listen=[":8443", "127.0.0.1:8080"])
    sentence = 'services.web.tls.listen[1]: "127.0.0.1:8080" is taken by the listener ":8080"'
    assert problem_of(tree) == sentence


def test_services_of_web_and_of_sessions_cannot_share_a_port(pems: Path) -> None:
    tree = tls(pems, ("good.pem", ""))
    tree["services"]["mail"] = {"protocol": "smtp", "listen": ["127.0.0.1:8443"]}
    sentence = 'services.mail.listen[0]: "127.0.0.1:8443" is taken by the listener ":8443"'
    assert problem_of(tree) == sentence


# --- which way a request goes ---

WAYS: dict[str, Any] = {
    "nodes": {"node1": {"address": "172.16.0.1"}, "n2": {"address": "172.16.0.2:8080", "weight": 2}},
    "services": {
        "web": {
            "protocol": "http",
            "listen": [":80", "127.0.0.1:8081"],
            "preset": "list-manager",
            "sticky": COOKIE,
            "routes": [
                {
                    "name": "admin",
                    "path": "/admin/",
                    "clients": ["10.0.0.0/8"],
                    "nodes": ["n2"],
                    "sticky": False,
                },
                {"name": "click", "timeouts": {"response": "5s"}, "retry": {"tries": 2}},
                {"name": "post", "path": "/post", "method": "POST", "sticky": {"mode": "source_hash"}},
            ],
        },
        "inner": {"protocol": "http", "listen": ["127.0.0.1:8080", "127.0.0.2:8081", "y:8081"]},
        "mail": {"protocol": "smtp", "listen": [":25"], "nodes": {"node1": {}}},
    },
}


def way(url: str, method: str = "GET", **changes: Any) -> dict[str, str]:
    """What is said of a request, by its label; of several lines with one label, the first."""
    tree = WAYS | {"services": WAYS["services"] | changes}
    lines = which(load(None, tree), url, method)
    width = min(re.search(r"\S  +\S", line).end() - 1 for line in lines if line[0] != " ")  # type: ignore[union-attr]
    assert {line[width - 1] for line in lines} == {" "}
    return {line[:width].strip(): line[width:] for line in reversed(lines) if line[0] != " "}


def test_the_way_of_a_click_has_all_that_counts_for_it() -> None:
    lines = which(load(None, WAYS), "http://news.example.com/t/1/2/3/4/", "GET")
    assert lines == [
        "request  GET /t/1/2/3/4/, Host: news.example.com",
        'service  web, by its listener ":80"',
        "route    click",
        "policy   round_robin",
        "sticky   no",
        "retry    2 tries, none begun after 120s",
        "timeout  response 5s, elsewhere 60s",
        "nodes    node1  172.16.0.1:80    weight 1, priority 0",
        "         n2     172.16.0.2:8080  weight 2, priority 0",
    ]


def test_the_way_into_a_closed_path_names_networks_and_nodes() -> None:
    found = way("http://x/admin/a")
    assert (found["route"], found["clients"]) == ("admin", "10.0.0.0/8; others get 403")
    assert found["nodes"].startswith("n2  172.16.0.2:8080")
    assert way("http://x/admin/..%2Ft/")["refused"].startswith("400: ")


def test_a_request_that_no_route_takes_has_the_rules_of_the_service() -> None:
    found = way("http://127.0.0.1:8080/")
    assert (found["service"], found["route"]) == (
        'inner, by its listener "127.0.0.1:8080"',
        "no route: the service's own rules",
    )


def test_the_method_counts_for_the_route_and_for_what_may_be_sent_again() -> None:
    post = way("http://x/post?a=b c", "post")
    assert post["request"] == "POST /post?a=b%20c, Host: x"
    assert (post["route"], post["policy"], post["sticky"]) == (
        "post",
        "source_hash",
        "by the client's network",
    )
    assert post["retry"] == "3 tries, none begun after 120s; POST: only after failed connects"
    get = way("http://x/post")
    assert (get["route"], get["sticky"]) == ("web", "by our cookie TPNODE")


def test_a_route_without_stickiness_is_not_balanced_by_that_of_the_service() -> None:
    by_source = WAYS["services"]["web"] | {"sticky": {"mode": "source_hash"}}
    found = way("http://x/t/", web=by_source)
    assert (found["sticky"], found["policy"]) == ("no", "round_robin")


@pytest.mark.parametrize(
    ("url", "service"),
    [
        ("http://127.0.0.1/", 'web, by its listener ":80"'),
        ("http://y:8081/", 'inner, by its listener "y:8081"'),
        ("http://127.0.0.2:8081/", 'inner, by its listener "127.0.0.2:8081"'),
        (
            "http://x:8081/",
            'web, by its listener "127.0.0.1:8081" (by the address that the host has, it may be inner)',
        ),
        ("http://x:25/", "web, the first one, for no listener is for http on port 25"),
        ("https://x/", "web, the first one, for no listener is for https on port 443"),
        ("http://127.0.0.9:8080/", "web, the first one, for no listener is for http on port 8080"),
    ],
)
def test_the_listener_tells_the_service(url: str, service: str) -> None:
    assert way(url)["service"] == service


def test_a_url_with_https_comes_to_listeners_with_tls_and_one_without_is_sent_there(pems: Path) -> None:
    secure = tls(pems, ("good.pem", ""))["services"]["web"]
    secure |= {"listen": [":80"], "routes": [{"name": "a", "https": True}]}
    there = way("https://x:8443/a", web=secure)
    assert there["service"] == 'web, by its listener ":8443"'
    assert "https" not in there
    assert way("http://x/a?b", web=secure)["https"] == "clients are sent to https://x:8443/a?b"


@pytest.mark.parametrize(
    ("url", "sent", "host"),
    [
        ("http://x", "/", "x"),
        ("http://x:80/a#b", "/a", "x"),
        ("http://user@x:8081/%2e;a=b", "/%2e;a=b", "x:8081"),
        ("HTTP://[::1]:8081/ä", "/%C3%A4", "[::1]:8081"),
        ("http://é.example/", "/", "xn--9ca.example"),
    ],
)
def test_a_url_is_sent_as_a_browser_would(url: str, sent: str, host: str) -> None:
    assert way(url)["request"] == f"GET {sent}, Host: {host}"


@pytest.mark.parametrize(
    "url", ["", "x", "/t/", "ftp://x/", "http://", "http://[::1", "http://x:y/", "http://.x"]
)
def test_what_is_no_url_gets_a_sentence(url: str) -> None:
    with pytest.raises(ValueError, match=r"is no URL"):
        way(url)


def test_without_an_http_service_there_is_no_way() -> None:
    tree = WAYS | {"services": {"mail": WAYS["services"]["mail"]}}
    with pytest.raises(ValueError, match="there is no HTTP service in these settings"):
        which(load(None, tree), "http://x/", "GET")


@pytest.mark.parametrize("mode", ["cookie", "app_cookie"])
def test_a_route_of_some_nodes_must_not_take_clients_away_from_the_others(mode: str) -> None:
    sticky = COOKIE if mode == "cookie" else {"mode": mode, "name": "JSESSIONID"}
    route: dict[str, Any] = {"name": "admin", "path": "/admin/", "nodes": ["node1"]}
    assert problem_of(minimal(sticky=sticky, routes=[route])).startswith(
        "services.web.routes[0].nodes: would take clients away from their nodes elsewhere"
    )
    load(None, minimal(sticky=sticky, routes=[route | {"sticky": False}]))
    load(None, minimal(sticky=sticky, routes=[route | {"sticky": COOKIE | {"name": "OTHER"}}]))
