"""What a service manager hears from trackproxy and hands to it, as systemd does: sockets and variables."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.test_cli import DEADLINE_S, ROOT
from tests.e2e.test_processes import SERVING, Stage, answer

UNIT = ROOT / "conf" / "trackproxy.service"

# Becomes trackproxy with the listening sockets where systemd puts them (sd_listen_fds(3)).
ACTIVATE = """
import os, sys
count = int(sys.argv[1])
for at, fd in enumerate(sys.argv[2:2 + count]):
    os.dup2(int(fd), 3 + at)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(count))
os.execv(sys.argv[2 + count], sys.argv[2 + count:])
"""


class Manager:
    """The socket where a service manager hears from its services."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address.replace("@", "\0", 1))
        self.socket.settimeout(DEADLINE_S)

    def hear(self, wanted: Callable[[str], bool]) -> str:
        """Wait for a message; those before it are not of interest."""
        while not wanted(said := self.socket.recv(4096).decode()):
            pass
        return said


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with ExitStack() as stack:
        yield Stage(tmp_path, stack)


def activate(stage: Stage, *listeners: socket.socket) -> None:
    """Start as systemd does that listens on these already."""
    fds = tuple(high_copy(listener) for listener in listeners)
    stage.start(sys.executable, "-c", ACTIVATE, str(len(fds)), *map(str, fds), fds=fds)
    for fd in fds:
        os.close(fd)
    stage.expect(SERVING)


def high_copy(listener: socket.socket) -> int:
    """A copy of its descriptor out of the way of those that systemd's are to have."""
    copies = [os.dup(listener.fileno())]
    while copies[-1] < 20:
        copies.append(os.dup(listener.fileno()))
    for copy in copies[:-1]:
        os.close(copy)
    return copies[-1]


def status_of(client: socket.socket) -> bytes:
    client.settimeout(DEADLINE_S)
    client.sendall(b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    return answer(client)[9:12]


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_the_service_manager_hears_of_start_reload_and_stop(stage: Stage, kind: str) -> None:
    address = f"@trackproxy-test-{os.getpid()}" if kind == "abstract" else str(stage.folder / "notify")
    manager = Manager(address)
    with manager.socket:
        stage.write()
        stage.start(NOTIFY_SOCKET=address)
        ready = manager.hear(lambda said: True)
        assert ready.splitlines() == ["READY=1", "STATUS=1 service, 1 node, 2 workers"]
        assert stage.get() == b"/x"
        stage.process.send_signal(signal.SIGHUP)
        reloading = manager.hear(lambda said: said != "WATCHDOG=1").splitlines()
        assert reloading[0] == "RELOADING=1"
        assert reloading[1].startswith("MONOTONIC_USEC=")
        assert manager.hear(lambda said: said != "WATCHDOG=1").startswith("READY=1\n")
        stage.process.send_signal(signal.SIGTERM)
        assert manager.hear(lambda said: said != "WATCHDOG=1") == "STOPPING=1"
        assert stage.ends() == 0


def test_the_watchdog_is_fed_in_time_also_by_the_program_after_an_upgrade(stage: Stage) -> None:
    manager = Manager(str(stage.folder / "notify"))
    with manager.socket:
        stage.write(workers=1)
        stage.start(NOTIFY_SOCKET=str(stage.folder / "notify"), WATCHDOG_USEC=str(2_000_000))
        manager.hear(lambda said: said.startswith("READY=1\n"))
        manager.socket.settimeout(2)  # as long as it may be silent
        for _ in range(2):
            assert manager.hear(lambda said: True) == "WATCHDOG=1"
        stage.process.send_signal(signal.SIGUSR2)
        manager.hear(lambda said: said.startswith("READY=1\n"))
        assert manager.hear(lambda said: True) == "WATCHDOG=1"


def test_workers_share_a_socket_that_was_handed_over_also_after_a_reload(stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", stage.port)) as listener:
        stage.write()
        activate(stage, listener)
        assert [stage.get() for _ in range(8)] == [b"/x"] * 8
        assert len(stage.serving()) == 2
        stage.reload()
        assert [stage.get() for _ in range(8)] == [b"/x"] * 8
        assert "fits no listener" not in stage.log
        assert stage.ends(signal.SIGTERM) == 0


def test_a_socket_for_both_families_is_taken_for_every_interface(stage: Stage) -> None:
    with socket.create_server(("::", stage.port), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        stage.write(f":{stage.port}")
        activate(stage, listener)
        assert stage.get() == b"/x"
        with socket.create_connection(("::1", stage.port)) as client:
            assert status_of(client) == b"200"


def test_a_path_that_was_handed_over_is_left_to_its_owner_and_what_fits_nothing_is_said(stage: Stage) -> None:
    path = stage.folder / "web.sock"
    with socket.socket(socket.AF_UNIX) as listener, socket.create_server(("127.0.0.1", 0)) as other:
        listener.bind(str(path))
        listener.listen()
        stage.write(f"unix:{path}")
        activate(stage, listener, other)
        number = other.getsockname()[1]
        stage.expect(f"the service manager's socket 127.0.0.1:{number} fits no listener")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            assert status_of(client) == b"200"
        assert stage.ends(signal.SIGTERM) == 0
        assert path.exists()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_the_unit_is_one_that_systemd_understands(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text())
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    complaints = [line for line in done.stderr.splitlines() if unit.name in line]
    assert [line for line in complaints if "is not executable" not in line] == []
