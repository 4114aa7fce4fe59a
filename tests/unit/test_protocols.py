"""The life of connections as scripts of the wire: bytes in, bytes out, deadlines, nothing left behind."""

from __future__ import annotations

import h11
import pytest

from tests.unit.memory_stage import Stage
from tests.unit.memory_transport import HIGH_WATER, INET, UNIX, MemoryTransport
from trackproxy.clock import NEVER
from trackproxy.http.edge import PIPELINED_BYTES, Edge
from trackproxy.pool.endpoints import Health
from trackproxy.pool.nodes import AdminState
from trackproxy.tunnel import LINGER_BYTES

GET = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n"
GET_2 = b"GET /2 HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
CHUNKED_POST = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
UPGRADE = b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BEGUN = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegun"
BIG = b"x" * (2 * HIGH_WATER)
BIG_OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(BIG), BIG)

TIMEOUTS = {
    "head": 10, "idle": 20, "body": 30, "response_head": 40, "response": 50, "write": 60, "tunnel": 70,
    "client_gone": 4, "linger": 5,
}  # fmt: skip


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def asked(stage: Stage, request: bytes = GET) -> tuple[MemoryTransport, MemoryTransport]:
    """Return a client that has asked, and the node's connection that has got the request."""
    node, client = stage.node(), stage.client()
    client.receive(request)
    stage.run()
    assert node.taken()
    return client, node


def begun(stage: Stage) -> tuple[MemoryTransport, MemoryTransport]:
    """Return both connections in the middle of an answer."""
    client, node = asked(stage)
    node.receive(BEGUN)
    assert client.taken() == BEGUN
    return client, node


def leave(stage: Stage, *clients: MemoryTransport) -> None:
    """All clients go away; then nothing may be left of them."""
    for client in clients:
        client.lose()
    stage.run()
    stage.assert_at_rest()


# --- one request after the other ---


def test_a_request_goes_to_the_node_and_its_answer_to_the_client() -> None:
    stage = Stage()
    node, client = stage.node(), stage.client()
    client.receive(GET)
    sent = node.taken()
    assert sent.startswith(
        b"GET /1 HTTP/1.1\r\nHost: a\r\nX-Forwarded-Host: a\r\nX-Forwarded-For: 192.0.2.7\r\n"
    )
    assert sent.endswith(b"\r\n\r\n")
    assert stage.active == [1]
    node.receive(OK)
    assert client.taken() == OK
    assert stage.active == [0]
    assert len(stage.channel().idle) == 1
    leave(stage, client)


@pytest.mark.parametrize(
    "answer", [OK, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"]
)
def test_one_connection_to_the_node_serves_request_after_request(answer: bytes) -> None:
    stage = Stage()
    node, client = stage.node(), stage.client()
    for _ in range(3):
        for part in (GET[:20], GET[20:]):
            client.receive(part)
        assert node.taken().startswith(b"GET /1 ")
        for at in range(len(answer)):
            node.receive(answer[at : at + 1])
        assert client.taken().startswith(b"HTTP/1.1 200 OK\r\n")
        assert stage.active == [0]
    assert not stage.loop.connected
    leave(stage, client)


def test_requests_that_are_sent_ahead_are_served_one_by_one() -> None:
    stage = Stage()
    client, node = asked(stage, GET + GET_2)
    stage.run()
    assert node.taken() == b""
    node.receive(OK)
    stage.run()
    assert node.taken().startswith(b"GET /2 ")
    node.receive(OK)
    assert client.taken() == OK * 2
    leave(stage, client)


def test_a_client_without_an_address_is_unknown() -> None:
    stage = Stage()
    node, client = stage.node(), stage.client(UNIX)
    client.receive(b"GET / HTTP/1.0\r\n\r\n")
    sent = node.taken()
    assert b"Host: localhost\r\n" in sent
    assert b"X-Forwarded-For: unknown\r\n" in sent


@pytest.mark.parametrize(
    ("sockname", "host"),
    [
        (("198.51.100.1", 80), b"198.51.100.1"),
        (("198.51.100.1", 8080), b"198.51.100.1:8080"),
        (("2001:db8::1", 80, 0, 0), b"[2001:db8::1]"),
        (("2001:db8::1", 8080, 0, 0), b"[2001:db8::1]:8080"),
    ],
)
def test_a_client_that_names_no_host_gets_the_one_it_reached(
    sockname: tuple[object, ...], host: bytes
) -> None:
    stage = Stage()
    node, client = stage.node(), stage.client({**INET, "sockname": sockname})
    client.receive(b"GET / HTTP/1.0\r\n\r\n")
    assert b"\r\nHost: %b\r\n" % host in node.taken()


def test_a_trusted_peer_on_a_link_local_address_is_recognised() -> None:
    stage = Stage(trusted_proxies=["fe80::/10"])
    node, client = stage.node(), stage.client({"peername": ("fe80::1%eth0", 1), "sockname": ("fe80::2", 80)})
    client.receive(b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.99\r\n\r\n")
    assert b"X-Forwarded-For: 192.0.2.99, fe80::1" in node.taken()


# --- every way in which a request can end gives back what it held ---


def the_client_resets(client: MemoryTransport, node: MemoryTransport) -> None:
    client.lose(ConnectionResetError())


def the_node_resets(client: MemoryTransport, node: MemoryTransport) -> None:
    node.lose(ConnectionResetError())


def the_node_closes(client: MemoryTransport, node: MemoryTransport) -> None:
    node.receive_eof()


def the_node_talks_nonsense(client: MemoryTransport, node: MemoryTransport) -> None:
    node.receive(b"nonsense\r\n\r\n")


def the_node_sends_too_much(client: MemoryTransport, node: MemoryTransport) -> None:
    node.receive(b"x" * 1000)


def both_reset(client: MemoryTransport, node: MemoryTransport) -> None:
    node.lose(ConnectionResetError())
    client.lose(ConnectionResetError())


ENDS = [
    the_client_resets,
    the_node_resets,
    the_node_closes,
    the_node_talks_nonsense,
    the_node_sends_too_much,
    both_reset,
]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("before", ["asked", "begun", "posting"])
def test_however_a_request_ends_nothing_is_kept(before: str, end: object) -> None:
    stage = Stage(retry={"tries": 1})
    if before == "begun":
        client, node = begun(stage)
    else:
        client, node = asked(stage, GET if before == "asked" else b"PUT" + POST[4:] + b"ab")
    assert stage.active == [1]
    assert callable(end)
    end(client, node)
    stage.after(200)
    assert stage.active == [0]
    leave(stage, client)


@pytest.mark.parametrize("before", ["asked", "begun", "posting"])
def test_silence_ends_every_state_and_nothing_is_kept(before: str) -> None:
    stage = Stage(retry={"tries": 1}, timeouts=TIMEOUTS)
    if before == "begun":
        asked_by = begun(stage)
    else:
        asked_by = asked(stage, GET if before == "asked" else b"PUT" + POST[4:] + b"ab")
    stage.after(1000)
    assert all(connection.gone for connection in asked_by)
    stage.assert_at_rest()


def test_a_client_that_leaves_while_a_connection_is_made_leaves_that_to_the_next_one() -> None:
    stage = Stage()
    client = stage.client()
    client.receive(GET)
    assert stage.active == [1]
    client.lose()
    assert stage.active == [0]
    stage.run()
    assert len(stage.channel().idle) == 1
    assert stage.loop.connected[0].taken() == b""
    stage.assert_at_rest()


def test_a_refused_connection_leaves_the_endpoint_out_and_the_request_goes_elsewhere() -> None:
    stage = Stage(nodes=2)
    stage.loop.refusing = {8000}
    client = stage.client()
    client.receive(GET)
    stage.run()
    (node,) = stage.loop.connected
    assert node.taken()
    assert [endpoint.ejected for endpoint in stage.endpoints] == [True, False]
    stage.after(1.5)
    assert [endpoint.ejected for endpoint in stage.endpoints] == [False, False]
    node.receive(OK)
    assert client.taken() == OK
    leave(stage, client)


def test_a_node_that_refuses_for_days_costs_each_request_a_short_answer_only() -> None:
    stage = Stage()
    stage.loop.refusing = {8000}
    for _ in range(1100):
        client = stage.client()
        client.receive(GET)
        stage.run()
        assert status_of(client.taken()) == 502
        client.lose()
        stage.loop.now_s += 10.0
        stage.sweep.tick()
        stage.run()
    stage.assert_at_rest()


@pytest.mark.parametrize(
    "request_", [GET, POST, POST + b"abcde", CHUNKED_POST, CHUNKED_POST + b"1\r\nx\r\n0\r\n\r\n"]
)
def test_without_any_node_a_client_gets_503_and_time_to_read_it(request_: bytes) -> None:
    stage = Stage(timeouts=TIMEOUTS, panic_threshold=0)
    stage.service.groups[0].balancer.set_health(stage.endpoints[0], Health.DOWN)
    client = stage.client()
    client.receive(request_)
    stage.run()
    if request_ is CHUNKED_POST:
        client.receive(b"1\r\n")
        stage.run()
    assert status_of(client.taken()) == 503
    assert client.reading, "what the client still sends has to be read, or a reset takes the answer from it"
    stage.after(60)
    assert client.gone
    stage.assert_at_rest()


def test_a_drained_node_gets_nothing_new() -> None:
    stage = Stage(nodes=2)
    stage.service.groups[0].balancer.set_state("node0", AdminState.DRAIN)
    nodes = [stage.node(0), stage.node(1)]
    for _ in range(4):
        client = stage.client()
        client.receive(GET)
        nodes[1].receive(OK)
        assert client.taken() == OK
    assert nodes[0].taken() == b""


# --- the queue ---


def test_who_waits_is_served_when_a_place_is_free_and_counts_stay_right() -> None:
    stage = Stage(max_connections=1)
    first, node = asked(stage)
    second, third = stage.client(), stage.client()
    second.receive(GET_2)
    third.receive(GET)
    assert stage.active == [1]
    second.lose()
    assert len(stage.service.groups[0].waiting) == 1
    node.receive(OK)
    assert node.taken().startswith(b"GET /1 ")
    node.receive(OK)
    assert [client.taken() for client in (first, third)] == [OK, OK]
    leave(stage, first, third)


def test_a_half_closed_client_is_not_served_longer_because_it_waited_before() -> None:
    stage = Stage(max_connections=1, timeouts=TIMEOUTS)
    first, node = asked(stage)
    second = stage.client()
    second.receive(GET_2)
    second.receive_eof()
    node.receive(OK)
    assert node.taken().startswith(b"GET /2 ")
    stage.after(TIMEOUTS["client_gone"] + 1)
    assert second.gone
    assert node.gone
    leave(stage, first)


# --- back-pressure ---


def test_a_client_that_does_not_read_stops_the_node_and_starts_it_again() -> None:
    stage = Stage()
    client, node = asked(stage)
    client.stuck = True
    node.receive(BIG_OK[:-1])
    assert not node.reading
    node.receive(BIG_OK[-1:])
    client.drain()
    assert node.reading
    stage.run()
    assert client.taken() == BIG_OK
    leave(stage, client)


@pytest.mark.parametrize("parts", [1, 2])
def test_a_connection_whose_last_answer_the_client_has_not_read_serves_the_next_client(parts: int) -> None:
    stage = Stage()
    slow, node = asked(stage)
    slow.stuck = True
    if parts == 2:
        node.receive(BIG_OK[:100])
        node.receive(BIG_OK[100:])
    else:
        node.receive(BIG_OK)
    quick = stage.client()
    quick.receive(GET)
    assert node.taken()
    node.receive(OK)
    stage.run()
    assert quick.taken() == OK
    leave(stage, slow, quick)


def test_a_node_that_does_not_read_stops_the_client_and_starts_it_again() -> None:
    stage = Stage()
    client, node = asked(stage, b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (len(BIG) + 1))
    node.stuck = True
    client.receive(BIG)
    assert not client.reading
    client.receive(b"y")
    node.drain()
    assert client.reading
    stage.run()
    assert node.taken() == BIG + b"y"
    node.receive(OK)
    assert client.taken() == OK
    leave(stage, client)


def test_a_client_that_sends_far_ahead_is_read_no_further_until_it_is_answered() -> None:
    stage = Stage()
    client, node = asked(stage)
    client.receive(GET_2 + b"GET /" + b"x" * PIPELINED_BYTES)
    assert not client.reading
    node.receive(OK)
    assert client.reading


def test_a_client_that_neither_reads_nor_stops_asking_is_cut_off_in_time() -> None:
    stage = Stage(timeouts=TIMEOUTS)
    client, node = asked(stage)
    client.stuck = True
    node.receive(BIG_OK[:-1])
    client.receive(b"x" * (PIPELINED_BYTES + 1))
    stage.after(TIMEOUTS["write"] + 2)
    assert client.gone
    assert node.gone
    stage.assert_at_rest()


def test_a_client_that_reads_slowly_but_steadily_is_not_cut_off() -> None:
    stage = Stage(timeouts=TIMEOUTS)
    client, node = asked(stage)
    client.stuck = True
    node.receive(BIG_OK[:-1])
    for _ in range(20):
        stage.after(TIMEOUTS["write"] - 1)
        client.drain(1)
    assert not client.end
    assert not node.end
    stage.after(2 * TIMEOUTS["write"] + 2)
    assert client.gone
    stage.assert_at_rest()


def test_a_node_that_takes_nothing_is_given_up_in_time() -> None:
    stage = Stage(timeouts=TIMEOUTS, retry={"tries": 1})
    client, node = asked(stage, b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(BIG))
    node.stuck = True
    client.receive(BIG)
    stage.after(TIMEOUTS["write"] + 2)
    assert node.gone
    assert status_of(client.taken()) == 504
    leave(stage, client)


def test_an_idle_connection_is_given_up_even_if_the_node_read_its_last_request_late() -> None:
    stage = Stage(timeouts=TIMEOUTS)
    client, node = asked(stage, b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(BIG))
    node.stuck = True
    client.receive(BIG)
    node.receive(OK)
    assert client.taken() == OK
    node.drain()
    stage.after(stage.settings.keepalive.idle + 2)
    assert node.gone
    leave(stage, client)


# --- deadlines of each state ---


@pytest.mark.parametrize(
    ("sent", "timeout", "status"),
    [(b"", "head", 0), (b"\r\n", "head", 0), (b"GET / HT", "head", 408), (POST + b"ab", "body", 408)],
)
def test_a_client_that_stops_sending_is_let_go_in_time(sent: bytes, timeout: str, status: int) -> None:
    stage = Stage(timeouts=TIMEOUTS)
    node, client = stage.node(), stage.client()
    if sent:
        client.receive(sent)
    node.taken()
    stage.after(TIMEOUTS[timeout] - 0.5)
    assert not client.end
    assert client.taken() == b""
    stage.after(1.5)
    answer = client.taken()
    assert (status_of(answer) if answer else 0) == status
    assert client.eof or client.end
    stage.after(TIMEOUTS["linger"] + 1)
    assert client.gone
    stage.assert_at_rest()


@pytest.mark.parametrize(
    ("octets", "rate", "status"),
    [(1, 1, 408), (20, 1, 0), (20, 2, 408), (1, 0, 0)],
    ids=["trickle", "slow", "too slow", "not asked"],
)
def test_a_body_has_to_come_at_some_rate(octets: int, rate: int, status: int) -> None:
    stage = Stage(timeouts=TIMEOUTS, limits={"body_rate": rate})
    client, _ = asked(stage, b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(20):
        if not client.eof:
            client.receive(b"a" * octets)  # always before the body's own timeout
            stage.after(TIMEOUTS["body"] / 2)
    answer = client.taken()
    assert (status_of(answer) if answer else 0) == status
    leave(stage, client)


def test_a_client_that_waits_for_its_node_is_not_called_slow() -> None:
    stage = Stage(timeouts=TIMEOUTS, limits={"body_rate": len(BIG)})
    client, node = asked(stage, b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (2 * len(BIG)))
    node.stuck = True
    client.receive(BIG)
    stage.after(TIMEOUTS["write"] - 5)
    node.drain()
    stage.after(TIMEOUTS["body"] - 5)
    assert client.taken() == b""
    stage.after(10)
    assert status_of(client.taken()) == 408
    leave(stage, client)


def test_an_idle_client_is_let_go_in_time() -> None:
    stage = Stage(timeouts=TIMEOUTS)
    client, node = asked(stage)
    node.receive(OK)
    stage.after(TIMEOUTS["idle"] - 0.5)
    assert not client.end
    stage.after(1.5)
    assert client.gone
    stage.assert_at_rest()


@pytest.mark.parametrize("given", [b"", b"HTTP/1.1 200 OK\r\nConten", b"HTTP/1.1 103 Early\r\n\r\n"])
def test_a_node_that_does_not_answer_is_given_up_in_time(given: bytes) -> None:
    stage = Stage(timeouts=TIMEOUTS, retry={"tries": 1})
    client, node = asked(stage)
    stage.after(TIMEOUTS["response_head"] - 1)
    if given:
        node.receive(given)
    client.taken()
    stage.after(2)
    assert node.gone
    assert status_of(client.taken()) == 504
    leave(stage, client)


def test_an_answer_that_stops_is_cut_in_time_and_not_earlier() -> None:
    stage = Stage(timeouts=TIMEOUTS)
    client, node = begun(stage)
    for _ in range(3):
        stage.after(TIMEOUTS["response"] - 1)
        node.receive(b"x")
    assert not client.end
    stage.after(TIMEOUTS["response"] + 1)
    assert client.aborted
    assert node.gone
    stage.assert_at_rest()


def test_an_idle_connection_to_a_node_is_kept_for_less_than_the_node_says() -> None:
    stage = Stage()
    client, node = asked(stage)
    node.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nKeep-Alive: timeout=5\r\n\r\n")
    stage.after(2.4)
    assert not node.end
    stage.after(2.4)
    assert node.gone
    leave(stage, client)


# --- one side closes ---


def test_a_client_that_closes_its_sending_side_gets_its_answer() -> None:
    stage = Stage()
    client, node = asked(stage)
    client.receive_eof()
    assert not client.end
    node.receive(OK)
    stage.run()
    assert client.taken() == OK
    assert client.gone
    stage.assert_at_rest()


def test_requests_that_were_sent_ahead_of_the_end_are_all_answered() -> None:
    stage = Stage()
    client, node = asked(stage, GET + GET_2)
    client.receive_eof()
    for _ in range(2):
        node.receive(OK)
        stage.run()
    assert client.taken() == OK * 2
    assert client.gone
    stage.assert_at_rest()


def test_the_end_may_come_just_between_two_answers() -> None:
    stage = Stage()
    client, node = asked(stage, GET + GET_2)
    node.receive(OK)
    client.receive_eof()  # before the loop comes to the request that waits
    stage.run()
    node.receive(OK)
    stage.run()
    assert client.taken() == OK * 2
    assert client.gone
    stage.assert_at_rest()


def test_a_client_that_closed_and_waits_too_long_is_let_go() -> None:
    stage = Stage(timeouts=TIMEOUTS)
    client, node = asked(stage)
    client.receive_eof()
    stage.after(TIMEOUTS["client_gone"] + 1)
    assert client.gone
    assert node.gone
    stage.assert_at_rest()


def test_a_node_that_closes_while_idle_is_not_asked_again() -> None:
    stage = Stage()
    node = stage.node()
    node.receive_eof()
    assert not stage.channel().idle
    stage.run()
    stage.assert_at_rest()


def test_a_node_that_speaks_unasked_is_not_asked_again() -> None:
    stage = Stage()
    node = stage.node()
    node.receive(OK)
    stage.run()
    assert node.gone
    stage.assert_at_rest()


def test_a_body_until_the_end_is_whole_only_after_an_orderly_end() -> None:
    for orderly in (True, False):
        stage = Stage()
        client, node = asked(stage)
        node.receive(b"HTTP/1.1 200 OK\r\n\r\nabc")
        if orderly:
            node.receive_eof()
        else:
            node.lose(ConnectionResetError())
        stage.run()
        assert client.taken().endswith(b"0\r\n\r\n") is orderly
        assert bool(client.end) is not orderly
        leave(stage, client)


# --- lingering ---


def test_after_a_refusal_the_rest_is_read_and_forgotten_up_to_a_bound() -> None:
    stage = Stage()
    client = stage.client()
    client.receive(b"GET / HTTP/1.1\r\n\r\n")
    assert status_of(client.taken()) == 400
    assert client.eof
    assert stage.service.open  # a drain waits for it
    client.receive(b"x" * LINGER_BYTES)
    assert not client.end
    client.receive(b"x")
    assert client.aborted
    stage.run()
    stage.assert_at_rest()


def test_a_client_that_closes_ends_the_lingering() -> None:
    stage = Stage()
    client = stage.client()
    client.receive(b"GET / HTTP/1.1\r\n\r\n")
    client.receive_eof()
    stage.run()
    assert client.gone
    stage.assert_at_rest()


# --- tunnels ---


def tunnelled(stage: Stage) -> tuple[MemoryTransport, MemoryTransport]:
    client, node = asked(stage, UPGRADE)
    client.receive(b"early")
    assert node.taken() == b""
    node.receive(SWITCH + b"hello")
    assert client.taken().endswith(b"\r\n\r\nhello")
    assert node.taken() == b"early"
    return client, node


def test_a_tunnel_carries_bytes_both_ways_and_counts_until_its_end() -> None:
    stage = Stage()
    client, node = tunnelled(stage)
    client.receive(b"up")
    node.receive(b"down")
    assert (client.taken(), node.taken()) == (b"down", b"up")
    assert stage.active == [1]
    node.lose()
    stage.run()
    assert client.gone
    stage.assert_at_rest()


@pytest.mark.parametrize("first", ["client", "node"])
def test_an_end_of_a_tunnel_is_passed_on_and_the_other_side_goes_on(first: str) -> None:
    stage = Stage()
    ends = tunnelled(stage)
    here, there = ends if first == "client" else ends[::-1]
    here.receive_eof()
    assert there.eof
    there.receive(b"more")
    assert here.taken() == b"more"
    there.receive_eof()
    stage.run()
    assert here.gone
    assert there.gone
    stage.assert_at_rest()


@pytest.mark.parametrize("first", ["client", "node"])
def test_a_reset_end_of_a_tunnel_resets_the_other_one(first: str) -> None:
    stage = Stage()
    ends = tunnelled(stage)
    here, there = ends if first == "client" else ends[::-1]
    here.lose(ConnectionResetError())
    assert there.aborted
    stage.run()
    stage.assert_at_rest()


def test_a_tunnel_goes_at_the_pace_of_its_slower_side() -> None:
    stage = Stage()
    client, node = tunnelled(stage)
    client.stuck = True
    node.receive(BIG)
    assert not node.reading
    assert client.reading
    client.drain()
    assert node.reading


def test_a_silent_tunnel_ends_in_time_and_not_earlier() -> None:
    stage = Stage(timeouts=TIMEOUTS)
    client, node = tunnelled(stage)
    for end in (client, node, client):
        stage.after(TIMEOUTS["tunnel"] - 1)
        end.receive(b"x")
    stage.after(TIMEOUTS["tunnel"] - 1)
    assert not client.end
    stage.after(2)
    assert client.gone
    assert node.gone
    stage.assert_at_rest()


def test_the_last_bytes_of_a_tunnel_have_a_deadline() -> None:
    stage = Stage(timeouts=TIMEOUTS)
    client, node = tunnelled(stage)
    client.stuck = True
    node.receive(b"last")
    node.lose()
    stage.after(TIMEOUTS["write"] - 1)
    assert not client.gone
    stage.after(2)
    assert client.gone
    stage.assert_at_rest()


# --- the end of the service ---


def test_draining_lets_the_request_on_its_way_end_and_closes_idle_ones() -> None:
    stage = Stage()
    client, node = asked(stage)
    idle_node, idle_client = stage.node(), stage.client()
    stage.drain(1.0)
    stage.run()
    assert idle_node.gone
    node.receive(OK)
    stage.run()
    assert b"Connection: close\r\n" in client.taken()
    assert client.gone
    assert not stage.over
    stage.after(2)
    assert idle_client.gone
    assert stage.over
    stage.assert_at_rest()


def test_abort_ends_everything_at_once() -> None:
    stage = Stage()
    waiting = stage.client()
    waiting.receive(GET)
    begun(stage)
    tunnelled(stage)
    stage.service.abort()
    stage.run()
    assert stage.active == [0]
    stage.assert_at_rest()


# --- whatever is done to it ---


def test_every_connection_that_waits_for_a_peer_has_a_deadline_somewhere() -> None:
    stage = Stage(timeouts=TIMEOUTS)
    for request in (GET, POST + b"ab", CHUNKED_POST, GET[:9], UPGRADE):
        node, client = stage.node(), stage.client()
        client.receive(request)
        stage.run()
        edge = client.protocol
        assert isinstance(edge, Edge)
        deadlines = [edge.deadline] if edge.upstream is None else [edge.deadline, edge.upstream.deadline]
        assert min(deadlines) < NEVER
        client.lose()
        node.lose()


def test_an_answer_of_the_proxy_is_one_that_a_client_can_read() -> None:
    stage = Stage(retry={"tries": 1})
    client, node = asked(stage)
    node.lose()
    reader = h11.Connection(h11.CLIENT)
    reader.send(h11.Request(method=b"GET", target=b"/", headers=[(b"Host", b"a")]))
    reader.send(h11.EndOfMessage())
    reader.receive_data(client.taken())
    head = reader.next_event()
    assert isinstance(head, h11.Response)
    assert head.status_code == 502
