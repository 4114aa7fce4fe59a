"""What one program hands to the next: it comes back the same, or what cannot be read is left out."""

from __future__ import annotations

import base64
import json
import os
import pickle
import socket
import sys
from collections.abc import Iterator

import pytest

from trackproxy.admin_sections import Admin
from trackproxy.board import Board
from trackproxy.control.listeners import Place
from trackproxy.control.takeover import ENDED, Crewed, Handover, own_arguments
from trackproxy.settings import Settings, load


@pytest.fixture
def settings() -> Settings:
    service = {"protocol": "http", "listen": ["127.0.0.1:0"]}
    return load(None, {"nodes": {"a": {"address": "127.0.0.1:9"}}, "services": {"web": service}})


@pytest.fixture
def handover(settings: Settings) -> Iterator[Handover]:
    """Two sockets of one place, a worker that runs and one that has ended."""
    place = Place(socket.AF_INET, "127.0.0.1", 0)
    board = Board.create(1, 2)
    with socket.create_server(("127.0.0.1", 0)) as one, socket.socket() as control:
        worker = (4242, control.fileno())
        crewed = Crewed(3, True, settings, board.fd, [worker, ENDED])
        yield Handover({place: [one]}, [crewed], {"a": "drain"}, {"web a 127.0.0.1:9": {"up": False}})
    board.close()


def loaded(text: bytes) -> Handover:
    """Load it without taking the descriptors, which are still the other's."""
    tree = json.loads(text)
    for row in tree["rows"]:
        row[3] = [os.dup(fd) for fd in row[3]]
    return Handover.load(json.dumps(tree).encode())


def close(handover: Handover) -> None:
    for row in handover.rows.values():
        for listener in row:
            listener.close()


def test_what_is_handed_over_comes_back_the_same(handover: Handover) -> None:
    got = loaded(handover.dump())
    assert [*got.rows] == [*handover.rows]
    assert [row[0].getsockname() for row in got.rows.values()] == [
        row[0].getsockname() for row in handover.rows.values()
    ]
    (before,), (after,) = handover.generations, got.generations
    assert (after.number, after.retired, after.settings) == (before.number, before.retired, before.settings)
    assert (after.board_fd, after.workers) == (before.board_fd, before.workers)
    assert (got.states, got.endpoints) == (handover.states, handover.endpoints)
    close(got)


def test_the_descriptors_that_stay_open_are_sockets_board_and_workers_that_run(handover: Handover) -> None:
    (row,), (crewed,) = handover.rows.values(), handover.generations
    assert handover.descriptors() == [row[0].fileno(), crewed.board_fd, crewed.workers[0][1]]


def test_taken_descriptors_are_not_for_programs_that_are_started_later(handover: Handover) -> None:
    for fd in handover.descriptors():
        os.set_inheritable(fd, True)
    got = loaded(handover.dump())
    assert not any(os.get_inheritable(fd) for fd in got.descriptors())
    close(got)


def test_a_board_that_can_be_read_is_opened(handover: Handover) -> None:
    (crewed,) = handover.generations
    crewed.board_fd = os.dup(crewed.board_fd)
    board = crewed.open_board()
    assert board is not None
    assert (board.endpoints, board.workers) == (1, 2)
    board.close()


def test_a_board_of_another_version_is_left_out(handover: Handover) -> None:
    (crewed,) = handover.generations
    crewed.board_fd = os.memfd_create("other")
    os.write(crewed.board_fd, b"another layout" * 99)
    assert crewed.open_board() is None
    os.close(crewed.board_fd)


@pytest.mark.parametrize("pickled", [b"", b"cposix\nno_such_thing\n.", b"I1\n."], ids=str)
def test_settings_of_another_version_are_left_out(handover: Handover, pickled: bytes) -> None:
    tree = json.loads(handover.dump())
    tree["generations"][0]["settings"] = base64.b64encode(pickled).decode()
    got = loaded(json.dumps(tree).encode())
    assert got.generations[0].settings is None
    assert got.generations[0].open_board() is None
    close(got)


def own_settings(handover: Handover) -> Settings:
    """Those that are handed over, made anew: defaults are everybody's."""
    (crewed,) = handover.generations
    crewed.settings = settings = pickle.loads(pickle.dumps(crewed.settings))
    assert isinstance(settings, Settings)
    return settings


def test_settings_of_an_older_version_have_the_defaults_of_what_it_did_not_know(handover: Handover) -> None:
    settings = own_settings(handover)
    web, node = settings.services["web"], settings.nodes["a"]
    before = pickle.loads(pickle.dumps(settings.model_copy(update={"admin": Admin()})))
    for part, key in ((settings, "admin"), (web, "access_log"), (web.timeouts, "connect"), (node, "weight")):
        del part.__dict__[key]
    got = loaded(handover.dump())
    assert got.generations[0].settings == before
    close(got)


def test_settings_without_what_has_no_default_are_left_out(handover: Handover) -> None:
    settings = own_settings(handover)
    del settings.nodes["a"].__dict__["address"]
    got = loaded(handover.dump())
    assert got.generations[0].settings is None
    close(got)


def test_another_format_is_refused(handover: Handover) -> None:
    text = handover.dump().replace(b'"format": 1', b'"format": 2')
    with pytest.raises(ValueError, match="hands over format 2, not 1"):
        Handover.load(text)


@pytest.mark.parametrize(
    "given",
    [["-m", "trackproxy", "serve"], ["-m", "trackproxy", "serve", "--take-over", "9"]],
    ids=["first", "again"],
)
def test_the_next_program_has_the_command_line_of_the_first(
    monkeypatch: pytest.MonkeyPatch, given: list[str]
) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", *given])
    assert own_arguments() == ["-m", "trackproxy", "serve"]
