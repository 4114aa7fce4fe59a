"""Back-pressure at its edges: a stall that comes with the first write, with a switch, or before a drain."""

from __future__ import annotations

from tests.unit.memory_stage import Stage
from tests.unit.test_protocols import BIG, BIG_OK, OK, SWITCH, TIMEOUTS, UPGRADE, asked, leave

LONG_PUT = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (len(BIG) + 1)


def test_a_node_that_stalls_at_the_first_write_of_an_upload_stops_the_client() -> None:
    stage = Stage()
    node, client = stage.node(), stage.client()
    node.stuck = True
    client.receive(LONG_PUT + BIG)
    assert not client.reading
    client.receive(b"y")
    node.drain()
    assert client.reading
    stage.run()
    assert node.taken().endswith(BIG + b"y")
    node.receive(OK)
    assert client.taken() == OK
    leave(stage, client)


def test_a_tunnel_does_not_read_the_node_before_the_client_has_taken_what_came_with_the_switch() -> None:
    stage = Stage()
    client, node = asked(stage, UPGRADE)
    client.stuck = True
    node.receive(SWITCH + BIG)
    stage.run()
    assert not node.reading
    node.receive(b"more")
    client.drain()
    assert node.reading
    stage.run()
    assert client.taken().endswith(BIG + b"more")
    leave(stage, client)


def test_a_drain_leaves_a_client_that_still_reads_its_answer_the_time_to_do_so() -> None:
    stage = Stage(timeouts=TIMEOUTS)
    client, node = asked(stage)
    client.stuck = True
    node.receive(BIG_OK)
    stage.drain(1.0)
    stage.after(TIMEOUTS["write"] - 2)
    assert not client.end
    client.drain()
    stage.after(2)
    assert client.gone
    assert not client.aborted
    assert client.taken() == BIG_OK
    assert stage.over
    stage.assert_at_rest()
