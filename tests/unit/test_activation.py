"""What is said to a service manager, and which descriptors are its own."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from trackproxy.control.activation import FIRST_FD, Notifier, activated_sockets, is_theirs

ME = str(os.getpid())


@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
def test_a_notice_reaches_its_socket(tmp_path: Path, abstract: bool) -> None:
    address = f"@trackproxy-unit-{ME}" if abstract else str(tmp_path / "n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address.replace("@", "\0"))
        manager.settimeout(5)
        notifier = Notifier({"NOTIFY_SOCKET": address})
        notifier.ready("fine")
        assert manager.recv(999) == b"READY=1\nSTATUS=fine"
        notifier.alive()
        assert manager.recv(999) == b"WATCHDOG=1"


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": "/nowhere/at/all"}], ids=["none", "gone"])
def test_without_a_manager_nothing_is_said_and_nothing_fails(environment: dict[str, str]) -> None:
    Notifier(environment).ready("fine")


def test_a_manager_that_does_not_read_is_not_waited_for(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "n"))
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "n")})
        for _ in range(2000):
            notifier.alive()


@pytest.mark.parametrize(
    ("environment", "watchdog_s"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": ME}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
        ({}, 0.0),
    ],
)
def test_the_watchdog_is_fed_twice_as_often_as_it_asks_if_it_is_ours(
    environment: dict[str, str], watchdog_s: float
) -> None:
    assert Notifier(environment).watchdog_s == watchdog_s


@pytest.mark.parametrize(
    "environment",
    [{}, {"LISTEN_FDS": "2"}, {"LISTEN_FDS": "2", "LISTEN_PID": "1"}, {"LISTEN_FDS": "x", "LISTEN_PID": ME}],
    ids=["none", "no pid", "another's", "no number"],
)
def test_descriptors_that_are_not_for_us_are_left_alone(environment: dict[str, str]) -> None:
    assert [*activated_sockets(environment)] == []
    assert not is_theirs(FIRST_FD, environment)


def test_the_managers_descriptors_are_known_again() -> None:
    environment = {"LISTEN_FDS": "2", "LISTEN_PID": ME}
    assert [is_theirs(fd, environment) for fd in (-1, 2, 3, 4, 5)] == [False, False, True, True, False]
