"""Postfix servers as nodes: each in a folder of its own, on a free port, beside whatever this machine has.

A message that a server has taken responsibility for stays in its hold queue as one file, so that what is lost
and what came twice can be counted: nothing is delivered, and so nothing is delivered twice after a kill.
The server is its master process with all that it starts, one process group, which is ended as a whole.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.chaos.processes import family, fixed_ports
from tests.e2e.test_cli import DEADLINE_S

MASTER = "/usr/lib/postfix/sbin/master"
OURSELVES = b"PROXY TCP4 127.0.0.1 127.0.0.1 1 25\r\n"  # the PROXY protocol, version 1
QUEUES = ("incoming", "active", "deferred", "hold")
# "postfix start" would make them, and take two seconds for it.
QUEUE_FOLDERS = (*QUEUES, "bounce", "corrupt", "defer", "flush", "private", "public", "saved", "trace")
MESSAGE_ID = re.compile(rb"\bMessage-I[Dd]: <([^>]+)>")

MAIN_CF = """\
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file = {folder}/log
maillog_file_prefixes = {folder}
syslog_name = {name}
myhostname = {name}.test
mydestination =
mynetworks = 127.0.0.0/8
alias_maps =
alias_database =
notify_classes =
inet_protocols = ipv4
inet_interfaces = 127.0.0.1
append_dot_mydomain = no
disable_dns_lookups = yes
smtpd_peername_lookup = no
smtpd_tls_security_level = none
smtpd_recipient_restrictions = check_recipient_access static:HOLD, permit_mynetworks, reject
smtpd_client_connection_count_limit = 0
smtpd_upstream_proxy_protocol = {upstream}
in_flow_delay = 0s
"""

# service, type, private, unprivileged, chroot, wakeup, maximum of processes, command
MASTER_CF = """\
127.0.0.1:{port} inet n - n - - smtpd
cleanup unix  n - n - 0 cleanup
qmgr    unix  n - n - 1 qmgr
rewrite unix  - - n - - trivial-rewrite
bounce  unix  - - n - 0 bounce
defer   unix  - - n - 0 bounce
trace   unix  - - n - 0 bounce
error   unix  - - n - - error
retry   unix  - - n - - error
proxymap unix - - n - - proxymap
anvil   unix  - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""


class Postfix:
    """One server; `running_postfix` starts it and ends it."""

    def __init__(self, folder: Path, proxy_protocol: bool) -> None:
        self.name = folder.name
        (self.port,) = fixed_ports(1)
        self._folder = folder
        self._header = OURSELVES if proxy_protocol else b""
        self._master: subprocess.Popen[bytes] | None = None
        self._write("haproxy" if proxy_protocol else "")

    def _write(self, upstream: str) -> None:
        conf, queue = self._folder / "conf", self._folder / "queue"
        for one in (conf, queue / "pid"):
            one.mkdir(parents=True)
        for one in (self._folder / "data", *(queue / name for name in QUEUE_FOLDERS)):
            one.mkdir()
            shutil.chown(one, "postfix")
        main = MAIN_CF.format(folder=self._folder, name=self.name, upstream=upstream)
        (conf / "main.cf").write_text(main)
        os.utime(conf / "main.cf", (0, 0))  # one just written might not be complete: Postfix would wait 2 s
        (conf / "master.cf").write_text(MASTER_CF.format(port=self.port))

    def start(self) -> None:
        """Start, and wait until it greets."""
        self._master = subprocess.Popen(
            [MASTER, "-c", self._folder / "conf", "-s"], stdin=subprocess.DEVNULL, start_new_session=True
        )
        self._await(self._greets, "it never greeted")

    def stop(self) -> None:
        """End it in good order, as "postfix stop" does; nothing if it has ended."""
        self._end(os.kill, signal.SIGTERM)

    def kill(self) -> None:
        """End all of its processes at once, whatever they do."""
        self._end(os.killpg, signal.SIGKILL)

    def restart(self) -> None:
        """Start again with what it has, once it has ended."""
        self.stop()
        self.start()

    def _end(self, tell: Callable[[int, int], None], number: signal.Signals) -> None:
        if self._master is None:
            return
        pid = self._master.pid  # not reaped yet, so nobody else can have it
        with suppress(ProcessLookupError):
            tell(pid, number)
        try:
            self._await(lambda: not family(pid), "it does not end")
        except AssertionError:
            os.killpg(pid, signal.SIGKILL)
            raise
        finally:
            self._master.wait(DEADLINE_S)
            self._master = None

    def messages(self) -> list[str]:
        """The Message-ID of each message that it is responsible for; one that came twice is there twice."""
        return [found for file in self._files() if (found := _message_id(file))]

    def log(self) -> str:
        """What it has logged so far."""
        try:
            return (self._folder / "log").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def _files(self) -> Iterator[Path]:
        for queue in QUEUES:
            yield from (one for one in (self._folder / "queue" / queue).rglob("*") if one.is_file())

    def _greets(self) -> bool:
        assert self._master is not None
        assert self._master.poll() is None, "it has ended"
        with suppress(OSError), closing(socket.create_connection(("127.0.0.1", self.port), 1.0)) as client:
            client.sendall(self._header)
            said = client.makefile("rb")
            if said.readline().startswith(b"220 "):
                client.sendall(b"QUIT\r\n")
                return said.read().startswith(b"221 ")
        return False

    def _await(self, fact: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not fact():
            assert time.monotonic() < deadline, f"{self.name}: {otherwise}\n{self.log()}"
            time.sleep(0.01)  # another process: it can only be asked again


def _message_id(file: Path) -> str:
    """The Message-ID of a queue file; empty while it is not complete, which Postfix says by its mode."""
    with suppress(FileNotFoundError):  # moved to another queue meanwhile
        if file.stat().st_mode & 0o100:
            found = MESSAGE_ID.search(file.read_bytes())
            return found[1].decode() if found else f"{file.name} has no Message-ID"
    return ""


@contextmanager
def passable_folder() -> Iterator[Path]:
    """A temporary folder that Postfix's own user may pass through, unlike pytest's."""
    with TemporaryDirectory(prefix="postfix-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder


@contextmanager
def running_postfix(folder: Path, proxy_protocol: bool = False) -> Iterator[Postfix]:
    """A server in a new FOLDER of a `passable_folder`, named after it; it is killed with the block.

    proxy_protocol: it expects a PROXY protocol header, v1 or v2, at the beginning of each connection.
    """
    if os.geteuid() != 0:
        pytest.skip("Postfix can be started by root only")
    if not Path(MASTER).exists():
        pytest.skip("needs Debian's package postfix")
    server = Postfix(folder, proxy_protocol)
    try:
        server.start()
        yield server
    finally:
        server.kill()
