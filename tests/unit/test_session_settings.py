"""Settings of NNTP, SMTP and TCP services: defaults, contradictions, and what a problem says."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_settings_problems import NODES, WEB, problem_of, problems_in
from trackproxy.session_sections import SessionService
from trackproxy.settings import EndpointConfig, groups_of, load

NEWS = '[services.news]\nprotocol = "nntp"\nlisten = [":119"]\n'


def tree_of(protocol: str, **service: Any) -> dict[str, Any]:
    """The smallest settings with one such service, and what a test adds to it."""
    return {
        "nodes": {"node1": {"address": "172.16.0.1"}, "node2": {"address": "172.16.0.2:4000"}},
        "services": {"s": {"protocol": protocol, "listen": [":4711"]} | service},
    }


def service_of(protocol: str, **service: Any) -> SessionService:
    """The service of these settings."""
    if protocol == "tcp":
        service = {"nodes": {"node2": {}}} | service  # the one with a port
    found = load(None, tree_of(protocol, **service)).services["s"]
    assert isinstance(found, SessionService)
    return found


def endpoint_of(tree: dict[str, Any], node: str = "node1") -> EndpointConfig:
    """One node as the service of these settings sees it."""
    return {endpoint.node: endpoint for endpoint in groups_of(load(None, tree), "s")[0].endpoints}[node]


# --- defaults ---


@pytest.mark.parametrize(
    ("protocol", "tls", "port"),
    [
        ("nntp", "off", 119),
        ("smtp", "off", 25),
        ("nntp", "passthrough", 563),
        ("smtp", "passthrough", 465),
    ],
)
def test_a_node_without_a_port_is_reached_at_the_protocols_own(protocol: str, tls: str, port: int) -> None:
    tree = tree_of(protocol, tls=tls)
    assert endpoint_of(tree, "node1").address.port == port
    assert endpoint_of(tree, "node2").address.port == 4000


@pytest.mark.parametrize("changes", [{"port": 1119}, {"address": "10.0.0.9:1119"}], ids=["port", "address"])
def test_a_service_may_give_a_node_another_port(changes: dict[str, Any]) -> None:
    assert endpoint_of(tree_of("nntp", nodes={"node2": changes}), "node2").address.port == 1119


@pytest.mark.parametrize(("protocol", "idle_s"), [("nntp", 2100.0), ("smtp", 900.0), ("tcp", 3600.0)])
def test_each_protocol_has_its_own_patience_with_silence(protocol: str, idle_s: float) -> None:
    assert service_of(protocol).idle_s == idle_s
    assert service_of(protocol, timeouts={"idle": "20s"}).idle_s == 20.0


@pytest.mark.parametrize("protocol", ["nntp", "smtp"])
def test_passthrough_has_the_patience_of_its_protocol(protocol: str) -> None:
    assert service_of(protocol, tls="passthrough").idle_s == service_of(protocol).idle_s


@pytest.mark.parametrize("protocol", ["nntp", "smtp", "tcp"])
def test_sessions_go_where_the_fewest_are(protocol: str) -> None:
    assert service_of(protocol).balance == "least_connections"


@pytest.mark.parametrize("protocol", ["nntp", "smtp", "tcp"])
def test_a_probe_speaks_the_protocol_of_the_service_unless_told_otherwise(protocol: str) -> None:
    assert service_of(protocol).probe_type == protocol
    assert service_of(protocol, probe={"type": "tcp"}).probe_type == "tcp"
    assert service_of(protocol, probe={"type": "off"}).probe_type == "off"


@pytest.mark.parametrize("protocol", ["nntp", "smtp", "tcp"])
def test_nothing_is_limited_told_or_encrypted_by_default(protocol: str) -> None:
    service = service_of(protocol)
    assert (service.max_connections, service.max_connection_rate) == (0, 0)
    assert (service.per_client.max_connections, service.per_client.max_connection_rate) == (0, 0)
    assert (service.proxy_protocol, service.accept_proxy_protocol, service.tls) == ("off", False, "off")


@pytest.mark.parametrize(("protocol", "first"), [("nntp", True), ("smtp", True), ("tcp", False)])
def test_a_greeting_is_read_unless_it_is_encrypted(protocol: str, first: bool) -> None:
    assert service_of(protocol).dialect.speaks_first is first
    assert not service_of(protocol, tls="passthrough").dialect.speaks_first


# --- the PROXY protocol towards nodes ---


@pytest.mark.parametrize(
    ("of_service", "of_node", "told"),
    [
        (None, None, "off"),
        ("v2", None, "v2"),
        (None, "v1", "v1"),
        ("v2", "v1", "v1"),
        ("v2", "off", "off"),
    ],
)
def test_what_a_node_says_of_the_proxy_protocol_stands_over_the_service(
    of_service: str | None, of_node: str | None, told: str
) -> None:
    service = {} if of_service is None else {"proxy_protocol": of_service}
    node = {} if of_node is None else {"proxy_protocol": of_node}
    tree = tree_of("smtp", nodes={"node1": node, "node2": {}}, **service)
    assert endpoint_of(tree, "node1").proxy_protocol == told
    assert endpoint_of(tree, "node2").proxy_protocol == (of_service or "off")


def test_the_service_speaks_for_nodes_that_it_does_not_name() -> None:
    assert endpoint_of(tree_of("smtp", proxy_protocol="v2")).proxy_protocol == "v2"


# --- what is wrong alone ---


@pytest.mark.parametrize(
    ("protocol", "sentence"),
    [
        ("imap", 'services.s.protocol: must be "http", "nntp", "smtp" or "tcp", not "imap"'),
        ("NNTP", 'services.s.protocol: must be "http", "nntp", "smtp" or "tcp", not "NNTP"'),
        ("", 'services.s.protocol: must be "http", "nntp", "smtp" or "tcp", not ""'),
    ],
)
def test_an_unknown_protocol_is_answered_with_those_there_are(protocol: str, sentence: str) -> None:
    assert problem_of(tree_of(protocol)) == sentence


def test_a_protocol_is_required() -> None:
    tree = tree_of("nntp")
    del tree["services"]["s"]["protocol"]
    assert problem_of(tree) == "services.s.protocol: is required"


@pytest.mark.parametrize(
    ("service", "sentence"),
    [
        ({"balance": "fair"}, 'balance: must be "round_robin", "least_connections", "random_two" or'),
        ({"proxy_protocol": "v3"}, 'proxy_protocol: must be "off", "v1" or "v2", not "v3"'),
        ({"tls": "on"}, 'tls: must be "off", "terminate" or "passthrough", not "on"'),
        ({"tls": True}, 'tls: must be "off", "terminate" or "passthrough", not true'),
        ({"probe": {"type": "http"}}, 'probe.type: must be "nntp", "smtp", "tcp" or "off", not "http"'),
        ({"probe": {"name": "a\r\nQUIT"}}, 'probe.name: must be a host such as "news.example.com"'),
        ({"probe": {"send": "a\0b"}}, "probe.send: must be text without control characters other than"),
        ({"probe": {"expect": "\x1b[0m"}}, "probe.expect: must be text without control characters other"),
        ({"name": "a b"}, 'name: must be a host such as "news.example.com" or "10.0.0.1:81", not "a b"'),
        ({"certificate": "c.pem"}, 'certificate: must be an absolute path, not "c.pem"'),
        ({"private_key": "./k.pem"}, 'private_key: must be an absolute path, not "./k.pem"'),
        ({"timeouts": {"idle": 0}}, "timeouts.idle: must be a duration such as"),
        ({"max_connections": -1}, "max_connections: must be a whole number from 0 to 1000000, not -1"),
        ({"per_client": 5}, "per_client: must be a table, not 5"),
        ({"per_client": {"max_connection_rate": "x"}}, "per_client.max_connection_rate: must be a whole"),
        ({"trusted_proxies": ["10.1.2.3/8"]}, 'trusted_proxies[0]: "10.1.2.3/8" is an address inside a'),
        ({"nodes": {"node1": {"proxy_protocol": "v3"}}}, "nodes.node1.proxy_protocol: must be "),
        ({"nodes": {"nod1": {}}}, 'nodes.nod1: unknown node, did you mean "node1"?'),
    ],
)
@pytest.mark.parametrize("protocol", ["nntp", "smtp"])
def test_a_wrong_value_gets_one_sentence(protocol: str, service: dict[str, Any], sentence: str) -> None:
    assert problem_of(tree_of(protocol, **service)).startswith(f"services.s.{sentence}")


def test_line_breaks_and_tabs_may_be_in_what_a_probe_sends() -> None:
    assert service_of("tcp", probe={"send": "PING\r\n\t", "expect": "é"}).probe.send == "PING\r\n\t"


# --- keys that nobody knows ---


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("balence = 1\n", 't.toml:6: services.news.balence: unknown key, did you mean "balance"?'),
        (
            "greeting-timeout = 1\n",
            't.toml:6: services.news.greeting-timeout: unknown key, did you mean "greeting_timeout"?',
        ),
        (
            "[services.news.timeouts]\n\nhalfclosed = 1\n",
            't.toml:8: services.news.timeouts.halfclosed: unknown key, did you mean "half_closed"?',
        ),
        (
            "[services.news.probe]\nexpekt = 1\n",
            't.toml:7: services.news.probe.expekt: unknown key, did you mean "expect"?',
        ),
        (
            "per_client.max_conections = 1\n",
            't.toml:6: services.news.per_client.max_conections: unknown key, did you mean "max_connections"?',
        ),
        (
            "[services.news.nodes.node1]\nproxy_protokol = 1\n",
            't.toml:7: services.news.nodes.node1.proxy_protokol: unknown key, did you mean "proxy_protocol"?',
        ),
        ("retry = 1\n", "t.toml:6: services.news.retry: unknown key, known here: protocol, listen, balance,"),
    ],
    ids=["typo", "hyphen", "sub-table", "probe", "dotted key", "node", "a key of http services"],
)
def test_an_unknown_key_is_answered_with_the_nearest_one_of_such_a_service(
    tmp_path: Path, text: str, problem: str
) -> None:
    (found,) = problems_in(tmp_path / "t.toml", NODES + NEWS + text)
    assert found.startswith(problem)


def test_keys_of_sessions_are_unknown_to_http_services(tmp_path: Path) -> None:
    (found,) = problems_in(tmp_path / "t.toml", NODES + WEB + "greeting_deadline = 1\n")
    assert found.startswith("t.toml:6: services.web.greeting_deadline: unknown key, ")


# --- what is wrong together ---


@pytest.mark.parametrize(
    ("protocol", "service", "sentence"),
    [
        (
            "nntp",
            {"accept_proxy_protocol": True},
            'accept_proxy_protocol: needs trusted_proxies, such as ["10.0.0.0/8"]',
        ),
        (
            "nntp",
            {"trusted_proxies": ["10.0.0.0/8"]},
            "trusted_proxies: means nothing without accept_proxy_protocol = true",
        ),
        (
            "nntp",
            {"probe": {"send": "x"}},
            'probe: send and expect are for type = "tcp", and this one is "nntp"',
        ),
        (
            "smtp",
            {"probe": {"expect": "x"}},
            'probe: send and expect are for type = "tcp", and this one is "smtp"',
        ),
        (
            "smtp",
            {"probe": {"type": "off", "expect": "x"}},
            'probe: send and expect are for type = "tcp", and this one is "off"',
        ),
        ("smtp", {"certificate": "/c.pem"}, 'certificate: means nothing without tls = "terminate"'),
        ("smtp", {"private_key": "/k.pem"}, 'certificate: means nothing without tls = "terminate"'),
        (
            "smtp",
            {"certificate": "/c.pem", "tls": "passthrough"},
            'certificate: means nothing without tls = "terminate"',
        ),
        ("smtp", {"tls": "terminate"}, 'tls: needs certificate = "/path/to/fullchain.pem"'),
        (
            "smtp",
            {"tls": "terminate", "private_key": "/k.pem"},
            'tls: needs certificate = "/path/to/fullchain.pem"',
        ),
    ],
)
def test_values_that_contradict_each_other_get_one_sentence(
    protocol: str, service: dict[str, Any], sentence: str
) -> None:
    assert problem_of(tree_of(protocol, **service)) == f"services.s.{sentence}"


@pytest.mark.parametrize(
    ("protocol", "service"),
    [
        ("nntp", {"accept_proxy_protocol": True, "trusted_proxies": ["10.0.0.0/8"]}),
        ("smtp", {"probe": {"type": "tcp", "send": "x", "expect": "y"}}),
        ("tcp", {"probe": {"send": "x", "expect": "y"}}),
        ("tcp", {"tls": "passthrough"}),
    ],
)
def test_values_that_belong_together_are_accepted(protocol: str, service: dict[str, Any]) -> None:
    service_of(protocol, **service)


def test_a_contradiction_names_its_line(tmp_path: Path) -> None:
    (found,) = problems_in(tmp_path / "t.toml", NODES + NEWS + "\naccept_proxy_protocol = true\n")
    assert found.startswith("t.toml:7: services.news.accept_proxy_protocol: needs trusted_proxies")


def test_a_node_of_a_tcp_service_needs_a_port() -> None:
    sentence = "services.s: needs a port for node1, such as nodes.node1.port = 8000"
    assert problem_of(tree_of("tcp")) == sentence
    assert problem_of(tree_of("tcp", tls="passthrough")) == sentence


@pytest.mark.parametrize(
    "changes", [{"port": 4001}, {"address": "10.0.0.9:4001"}, {"address": "unix:/n.sock"}]
)
def test_a_tcp_service_may_say_where_a_node_is_reached(changes: dict[str, Any]) -> None:
    load(None, tree_of("tcp", nodes={"node1": changes, "node2": {}}))


# --- nodes that several services use ---


def shared(**news: Any) -> dict[str, Any]:
    """An HTTP and an NNTP service over a node that names a port of its own."""
    return {
        "nodes": {"node1": {"address": "172.16.0.1:8080"}},
        "services": {
            "web": {"protocol": "http", "listen": [":80"]},
            "news": {"protocol": "nntp", "listen": [":119"]} | news,
        },
    }


def test_a_port_of_a_node_is_not_for_two_protocols() -> None:
    assert problem_of(shared()) == (
        "nodes.node1.address: names port 8080, which web (http) and news (nntp) cannot share; leave it out,"
        " or give each service its own: services.<name>.nodes.node1"
    )


@pytest.mark.parametrize("changes", [{"port": 119}, {"address": "172.16.0.1:119"}, {"address": "172.16.0.2"}])
def test_a_service_with_a_port_of_its_own_shares_none(changes: dict[str, Any]) -> None:
    if changes == {"address": "172.16.0.2"}:
        changes["port"] = 119
    load(None, shared(nodes={"node1": changes}))


def test_a_node_without_a_port_is_for_as_many_protocols_as_there_are() -> None:
    tree = tree_of("smtp", nodes={"node1": {}})
    tree["services"]["news"] = {"protocol": "nntp", "listen": [":119"], "nodes": {"node1": {}}}
    settings = load(None, tree)
    assert [groups_of(settings, name)[0].endpoints[0].address.port for name in ("s", "news")] == [25, 119]


def test_a_plain_tcp_service_may_share_any_port() -> None:
    load(None, shared(protocol="tcp", probe={"type": "off"}))


def test_two_services_of_one_protocol_may_share_a_port() -> None:
    load(None, shared(protocol="http"))


# --- certificates ---


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder: cert.pem with key.pem, both.pem, another key other.pem, the encrypted locked.pem, no.pem."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl")
    folder = tmp_path_factory.mktemp("pems")
    curve = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]
    for command in (
        ["genpkey", *curve, "-out", "key.pem"],
        ["genpkey", *curve, "-out", "other.pem"],
        [
            "req",
            "-x509",
            "-key",
            "key.pem",
            "-subj",
            "/CN=mail.example.com",
            "-days",
            "2",
            "-out",
            "cert.pem",
        ],
        ["pkey", "-in", "key.pem", "-aes256", "-passout", "pass:secret", "-out", "locked.pem"],
    ):
        subprocess.run(["openssl", *command], cwd=folder, check=True, capture_output=True, timeout=60)
    (folder / "both.pem").write_bytes((folder / "cert.pem").read_bytes() + (folder / "key.pem").read_bytes())
    (folder / "no.pem").write_text("this is none\n")
    return folder


def terminating(folder: Path, certificate: str, private_key: str = "") -> dict[str, Any]:
    """Settings of a service that ends TLS with these files."""
    key = f"{folder}/{private_key}" if private_key else ""
    return tree_of("smtp", tls="terminate", certificate=f"{folder}/{certificate}", private_key=key)


@pytest.mark.parametrize(("certificate", "private_key"), [("cert.pem", "key.pem"), ("both.pem", "")])
def test_a_key_is_in_a_file_of_its_own_or_in_that_of_the_certificate(
    pems: Path, certificate: str, private_key: str
) -> None:
    load(None, terminating(pems, certificate, private_key))


@pytest.mark.parametrize(
    ("certificate", "private_key", "sentence"),
    [
        ("none.pem", "", "{0}/none.pem cannot be read: No such file or directory"),
        ("cert.pem", "none.pem", "{0}/cert.pem or {0}/none.pem cannot be read: No such file or directory"),
        ("no.pem", "", "{0}/no.pem and its key are no PEM certificate with a key"),
        ("no.pem", "key.pem", "{0}/no.pem and {0}/key.pem are no PEM certificate with a key"),
        ("cert.pem", "", "{0}/cert.pem and its key are no PEM certificate with a key"),
        ("cert.pem", "no.pem", "{0}/cert.pem and {0}/no.pem are no PEM certificate with a key"),
        (
            "cert.pem",
            "other.pem",
            "the key in {0}/other.pem does not belong to the certificate in {0}/cert.pem",
        ),
        ("cert.pem", "locked.pem", "the key in {0}/locked.pem is encrypted"),
    ],
)
def test_a_certificate_that_cannot_be_used_says_which_file_and_why(
    pems: Path, certificate: str, private_key: str, sentence: str
) -> None:
    tree = terminating(pems, certificate, private_key)
    assert problem_of(tree) == "services.s.certificate: " + sentence.format(pems)
