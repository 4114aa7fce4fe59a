"""Addresses, durations, sizes and networks, as an operator writes them."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from trackproxy.units import (
    MAX_DURATION_S,
    MAX_SPAN_S,
    Address,
    Method,
    Regex,
    format_duration,
    format_size,
    overlap,
    parse_address,
    parse_duration,
    parse_network,
    parse_size,
    parse_span,
    whole,
)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("node1", Address("node1", 80)),
        ("node1:8080", Address("node1", 8080)),
        ("my_node.example:1", Address("my_node.example", 1)),
        ("127.0.0.1:65535", Address("127.0.0.1", 65535)),
        ("[::1]", Address("::1", 80)),
        ("[::1]:8080", Address("::1", 8080)),
        ("[2001:DB8::0:1]:80", Address("2001:db8::1", 80)),
        ("[fe80::1%eth0]:80", Address("fe80::1%eth0", 80)),
        ("unix:/run/node.sock", Address("", 0, "/run/node.sock")),
    ],
)
def test_a_nodes_address_may_leave_the_port_out(text: str, address: Address) -> None:
    assert parse_address(text, 80) == address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":8080", Address("", 8080)),
        ("0.0.0.0:80", Address("0.0.0.0", 80)),
        ("[::]:80", Address("::", 80)),
        ("127.0.0.1:0", Address("127.0.0.1", 0)),
        ("unix:/run/edge.sock", Address("", 0, "/run/edge.sock")),
    ],
)
def test_a_listeners_address_may_leave_the_host_out_and_ask_for_any_port(text: str, address: Address) -> None:
    assert parse_address(text, None) == address
    assert str(address) == text


@pytest.mark.parametrize(
    ("text", "default_port", "sentence"),
    [
        ("node1", None, 'names no port; did you mean "node1:80"?'),
        ("8080", None, 'names no port; did you mean ":8080"?'),
        ("[::1]", None, "names no port"),
        (":80", 80, "names no host"),
        ("", 80, "names no host"),
        ("node1:", 80, '"" is not a port'),
        ("node1:http", 80, '"http" is not a port: a port is a whole number from 1 to 65535'),
        ("node1:0", 80, '"0" is not a port'),
        ("node1:65536", 80, '"65536" is not a port'),
        ("node1:-1", 80, '"-1" is not a port'),
        ("node1:٨٠", 80, "is not a port"),
        ("::1", 80, "an IPv6 address stands in brackets"),
        ("[::1", 80, 'is not "[IPv6 address]:port"'),
        ("[::1]80", 80, 'is not "[IPv6 address]:port"'),
        ("[node1]:80", 80, 'is not "[IPv6 address]:port"'),
        ("[::g]:80", 80, '"::g" is not a valid IP address'),
        ("10.0.0.256:80", 80, '"10.0.0.256" is not a valid IP address'),
        ("10.1", 80, '"10.1" is not a valid IP address'),
        ("http://node1:80", 80, "is a URL; write only host and port"),
        ("node 1:80", 80, '"node 1" is not a host name'),
        ("node1/x:80", 80, '"node1/x" is not a host name'),
        ("-node:80", 80, '"-node" is not a host name'),
        ("a..b:80", 80, '"a..b" is not a host name'),
        ("a" * 254, 80, "is not a host name"),
        ("unix:", 80, 'the path of a UNIX socket starts with "/"'),
        ("unix:run/x", 80, 'the path of a UNIX socket starts with "/"'),
        ("unix:/" + "ä" * 54, 80, "the socket's path has 109 bytes; the system allows 107"),
    ],
)
def test_a_wrong_address_is_refused_with_a_sentence(
    text: str, default_port: int | None, sentence: str
) -> None:
    with pytest.raises(ValueError, match=r".") as raised:
        parse_address(text, default_port)
    assert sentence in str(raised.value)


def test_a_socket_path_may_fill_what_the_system_allows() -> None:
    assert parse_address("unix:/" + "a" * 106, None).path == "/" + "a" * 106


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (":80", ":80", True),
        (":80", ":81", False),
        ("127.0.0.1:80", "127.0.0.1:80", True),
        ("127.0.0.1:80", "127.0.0.2:80", False),
        ("0.0.0.0:80", "127.0.0.1:80", True),
        ("127.0.0.1:80", ":80", True),
        ("[::1]:80", ":80", True),
        ("[::1]:80", "[::]:80", True),
        ("[::1]:80", "0.0.0.0:80", False),
        ("[::]:80", "0.0.0.0:80", False),
        ("localhost:80", "0.0.0.0:80", True),
        ("127.0.0.1:0", "127.0.0.1:0", False),
        ("unix:/a", "unix:/a", True),
        ("unix:/a", "unix:/b", False),
        ("unix:/a", ":80", False),
    ],
)
def test_two_listeners_overlap_if_one_would_take_the_others_socket(
    first: str, second: str, same: bool
) -> None:
    one, other = parse_address(first, None), parse_address(second, None)
    assert overlap(one, other) is same
    assert overlap(other, one) is same


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("5s", 5.0),
        ("100ms", 0.1),
        ("1m", 60.0),
        ("1h", 3600.0),
        ("1m30s", 90.0),
        ("1h0m5s1ms", 3605.001),
        ("1.5s", 1.5),
        ("168h", MAX_DURATION_S),
        (5, 5.0),
        (0.25, 0.25),
        ("5", 5.0),
    ],
)
def test_a_duration_is_read_as_seconds(value: object, seconds: float) -> None:
    assert parse_duration(value) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "5 s",
        "s",
        "5d",
        "-5s",
        "30s1m",
        "1s1s",
        "٥s",
        "0s",
        0,
        -1,
        "169h",
        float("inf"),
        float("nan"),
        True,
        None,
        "9" * 5000,
    ],
)
def test_what_is_no_duration_is_not_read(value: object) -> None:
    assert parse_duration(value) is None


@given(st.integers(min_value=1, max_value=int(MAX_DURATION_S * 1000)))
def test_a_duration_in_its_notation_reads_as_itself(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("64KiB", 65536),
        ("1MiB", 1 << 20),
        ("1GiB", 1 << 30),
        ("10kB", 10_000),
        ("10KB", 10_000),
        ("5MB", 5_000_000),
        ("1 GB", 10**9),
        ("7B", 7),
        ("7", 7),
        (0, 0),
    ],
)
def test_a_size_is_read_as_bytes(value: object, size: int) -> None:
    assert parse_size(value) == size


@pytest.mark.parametrize(
    "value", ["", "KiB", "1.5KiB", "1kib", "-1", -1, 1.0, True, "1TB", 1 << 54, "9" * 5000]
)
def test_what_is_no_size_is_not_read(value: object) -> None:
    assert parse_size(value) is None


@given(st.integers(min_value=0, max_value=1 << 40))
def test_a_size_in_its_notation_reads_as_itself(size: int) -> None:
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    ("show", "value", "text"),
    [
        (format_duration, 75.0, "75s"),
        (format_duration, 3600.0, "1h"),
        (format_duration, 0.1, "100ms"),
        (format_size, 8192, "8KiB"),
        (format_size, 1 << 30, "1GiB"),
        (format_size, 1000, "1000"),
        (format_size, 0, "0"),
    ],
)
def test_values_are_shown_in_the_notation_that_people_use(
    show: Callable[[Any], str], value: float, text: str
) -> None:
    assert show(value) == text


@pytest.mark.parametrize("text", ["10.0.0.0/8", "2001:db8::/32", "127.0.0.1", "::1", "10.0.0.0/255.0.0.0"])
def test_a_network_or_a_single_address_is_read(text: str) -> None:
    assert parse_network(text) == ipaddress.ip_network(text)


def test_an_address_inside_a_network_is_refused_with_the_network_that_was_meant() -> None:
    with pytest.raises(ValueError, match=r'did you mean "10\.0\.0\.0/8"\?'):
        parse_network("10.1.2.3/8")


@pytest.mark.parametrize("value", ["", "unix", "10.0.0.0/33", "node1", 10, None])
def test_what_is_no_network_is_not_read(value: object) -> None:
    assert parse_network(value) is None


def test_a_whole_number_outside_its_range_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="must be a whole number from 0 to 256, not 257"):
        whole(0, 256).read(257)


@pytest.mark.parametrize("value", [True, 1.0, "1.0", "1e2", None, [1]])
def test_only_whole_numbers_are_whole_numbers(value: object) -> None:
    with pytest.raises(ValueError, match="must be a whole number from 0 to 256"):
        whole(0, 256).read(value)


@pytest.mark.parametrize(
    ("value", "seconds"), [("1d", 86400.0), ("0s", 0.0), (0, 0.0), ("90m", 5400.0), ("3660d", MAX_SPAN_S)]
)
def test_a_span_may_be_counted_in_days_and_be_nothing(value: object, seconds: float) -> None:
    assert parse_span(value) == seconds


@pytest.mark.parametrize("value", ["", "d", "-1d", "1.5d", "3661d", -1, True, None, float("nan")])
def test_what_is_no_span_is_not_read(value: object) -> None:
    assert parse_span(value) is None


@pytest.mark.parametrize("value", ["get", "Get", "", "G T"])
def test_a_method_is_a_token_in_capital_letters(value: str) -> None:
    with pytest.raises(ValidationError, match="must be "):
        TypeAdapter[str](Method).validate_python(value)
    assert TypeAdapter[str](Method).validate_python("M-SEARCH") == "M-SEARCH"


@pytest.mark.parametrize("value", ["(", "a{99999999999999999999}", "(" * 20_000])
def test_what_cannot_be_compiled_is_no_regular_expression(value: str) -> None:
    with pytest.raises(ValidationError, match="is not a regular expression"):
        TypeAdapter[str](Regex).validate_python(value)
