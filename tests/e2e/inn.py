"""INN 2 servers (Debian: inn2) as nodes: each in a folder of its own, on a free port, beside whatever this
machine has in /etc/news and /var; and a small client to talk with them.

innd becomes the user news before it reads any setting, and refuses to be anybody else: so it is started by
root, in a folder that news can come to. Readers are served by its children (nnrpd), which share its process
group: all of them are ended at once. An article that was acknowledged is one file in the spool, so that
articles can be counted when the server is dead, too.
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

PROGRAMS = Path("/usr/lib/news/bin")
USER = "news"
GROUP = "trackproxy.test"
WINDOW_BYTES = 32 * 1024  # of a client: who sends it a large article has to wait
MESSAGE_ID = re.compile(rb"^Message-ID: (<[^>]+>)", re.MULTILINE)

# The greeting says pathhost behind its code. Without domain INN asks for this machine's own, and it may have
# none. With icdsynccount = 1 a killed server knows its articles again. nnrpdloadlimit = 0: a busy machine is
# no reason to turn readers away.
INN_CONF = """\
pathhost: {name}.test
domain: {name}.test
mta: /bin/false
mailcmd: /bin/false
port: {port}
bindaddress: 127.0.0.1
hismethod: hisv6
ovmethod: tradindexed
icdsynccount: 1
maxartsize: 16000000
localmaxartsize: 16000000
initialtimeout: 60
nnrpdloadlimit: 0
pathnews: {folder}
pathbin: {programs}
pathcontrol: {programs}/control
pathetc: {folder}/etc
pathfilter: {folder}/etc
pathhttp: {folder}/http
pathdb: {folder}/db
pathlog: {folder}/log
pathrun: {folder}/run
pathspool: {folder}/spool
pathtmp: {folder}/tmp
"""
FOLDERS = (
    *("etc", "http", "db", "log", "run", "tmp"),
    *(f"spool/{name}" for name in ("articles", "overview", "outgoing", "incoming/bad")),
)
FILES = {
    "etc/control.ctl": "",
    "etc/expire.ctl": "/remember/:11\n",
    "etc/incoming.conf": "",  # nobody feeds it, so whoever connects is a reader
    "etc/moderators": "",
    "etc/newsfeeds": "ME:!*::\n",
    "etc/readers.conf": 'auth all {\ndefault: "<reader>"\n}\naccess all {\nnewsgroups: "*"\naccess: RPA\n}\n',
    "etc/storage.conf": 'method tradspool {\nnewsgroups: "*"\nclass: 0\n}\n',
    "db/active": "".join(
        f"{group} 0000000000 0000000001 {flag}\n"
        for group, flag in (("control", "n"), ("control.cancel", "n"), ("junk", "n"), (GROUP, "y"))
    ),
    "db/active.times": "",
    "db/history": "",
    "db/newsgroups": f"{GROUP}\tTests of trackproxy\n",
}


class Session:
    """A conversation with a server, one line at a time; `talking` begins one.

    greeting: the first line. node: whose it is. Methods raise OSError if the other side ends or is silent.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._said = connection.makefile("rb")
        self.greeting = ""
        self.node = ""

    def greet(self) -> None:
        """Read the greeting."""
        self.greeting = self._line().decode()
        self.node = self.greeting[4:].partition(".test ")[0]

    def ask(self, command: str) -> str:
        """The line that answers a command."""
        self._connection.sendall(command.encode() + b"\r\n")
        return self._line().decode()

    def article(self, which: str) -> bytes:
        """An article as it was posted, behind its header."""
        answer = self.ask(f"ARTICLE {which}")
        assert answer.startswith("220 "), answer
        lines = []
        while (line := self._line()) != b".":
            lines.append(line.removeprefix(b".") + b"\r\n")
        return b"".join(lines).partition(b"\r\n\r\n")[2]

    def post(self, message_id: str, body: bytes = b"Hello.\r\n") -> str:
        """The line that answers an article. BODY: lines that end with CR and LF."""
        answer = self.ask("POST")
        assert answer.startswith("340 "), answer
        head = f"From: a@client.test\r\nNewsgroups: {GROUP}\r\nSubject: x\r\nMessage-ID: {message_id}\r\n\r\n"
        stuffed = re.sub(rb"^\.", b"..", body, flags=re.MULTILINE)
        self._connection.sendall(head.encode() + stuffed + b".\r\n")
        return self._line().decode()

    def leave(self) -> None:
        """Say goodbye, and wait until the other side has closed."""
        answer = self.ask("QUIT")
        assert answer.startswith("205 "), answer
        assert self._said.read() == b""

    def close(self) -> None:
        self._said.close()

    def _line(self) -> bytes:
        line = self._said.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError(f"ended after {line!r}")
        return line.removesuffix(b"\r\n")


@contextmanager
def talking(port: int) -> Iterator[Session]:
    """A session that has been greeted, whatever the greeting says; it is cut off with the block."""
    with socket.socket() as connection:
        connection.settimeout(DEADLINE_S)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WINDOW_BYTES)
        connection.connect(("127.0.0.1", port))
        with closing(Session(connection)) as session:
            session.greet()
            yield session


class Inn:
    """One server; `running_inn` starts it and ends it."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        (self.port,) = fixed_ports(1)
        self._folder = folder
        self._environment = {**os.environ, "INNCONF": str(folder / "inn.conf")}
        self._innd: subprocess.Popen[bytes] | None = None
        self._write()

    def _write(self) -> None:
        for name in FOLDERS:
            (self._folder / name).mkdir(parents=True)
        for name, text in FILES.items():
            (self._folder / name).write_text(text)
        conf = INN_CONF.format(name=self.name, port=self.port, folder=self._folder, programs=PROGRAMS)
        (self._folder / "inn.conf").write_text(conf)
        for one in (self._folder, *self._folder.rglob("*")):
            shutil.chown(one, USER, USER)
        self._run("makedbz", "-i", "-o", "-s", "1000")  # an index of the history, for so many articles

    def _run(self, program: str, *words: str) -> None:
        """Run a program of INN as its user; it must come out well."""
        done = subprocess.run(
            [PROGRAMS / program, *words],
            env=self._environment,
            user=USER,
            group=USER,
            extra_groups=[],
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    @property
    def pid(self) -> int:
        """Of innd, while it runs."""
        assert self._innd is not None
        return self._innd.pid

    def start(self) -> None:
        """Start, and wait until readers are greeted. -d is in the foreground, -N without filters."""
        with (self._folder / "said").open("ab") as said:
            self._innd = subprocess.Popen(
                [PROGRAMS / "innd", "-d", "-N"],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        self._await(self._greets, "it never greeted")

    def kill(self) -> None:
        """End all of its processes at once, whatever they do; nothing if they have ended."""
        if self._innd is None:
            return
        pid = self._innd.pid  # not reaped yet, so nobody else can have it
        self._signal(signal.SIGKILL)
        try:
            self._await(lambda: not family(pid), "it does not end")
        finally:
            self._innd.wait(DEADLINE_S)
            self._innd = None

    def restart(self) -> None:
        """Start again with what it has."""
        self.kill()
        self.start()

    def freeze(self) -> None:
        """Stop all of its processes: connections are taken by the kernel, and nobody says anything."""
        self._signal(signal.SIGSTOP)

    def throttle(self) -> None:
        """Have it greet new readers with 400, as it does when its disk is full."""
        self._run("ctlinnd", "throttle", "the disk is full")

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def articles(self, group: str = GROUP) -> list[str]:
        """The Message-ID of each article in its spool; one that is there twice is there twice."""
        folder = self._folder / "spool/articles" / group.replace(".", "/")
        found = (MESSAGE_ID.search(file.read_bytes()) for file in folder.glob("*"))
        return [one[1].decode() for one in found if one]

    def sessions(self) -> int:
        """How many readers it serves."""
        return len(family(self.pid) - {self.pid})

    def _greets(self) -> bool:
        assert self._innd is not None
        assert self._innd.poll() is None, f"{self.name} has ended\n{self._said()}"
        with suppress(OSError), talking(self.port) as session:
            session.leave()
            return session.greeting.startswith("200 ")
        return False

    def _said(self) -> str:
        return (self._folder / "said").read_text(errors="replace")

    def _await(self, fact: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not fact():
            assert time.monotonic() < deadline, f"{self.name}: {otherwise}\n{self._said()}"
            time.sleep(0.005)  # another process: it can only be asked again


@contextmanager
def passable_folder() -> Iterator[Path]:
    """A temporary folder that news may pass through, unlike pytest's; short, for the sockets inside."""
    with TemporaryDirectory(prefix="inn-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder


@contextmanager
def running_inn(folder: Path) -> Iterator[Inn]:
    """A server in a new FOLDER of a `passable_folder`, named after it; it is killed with the block."""
    if os.geteuid() != 0:
        pytest.skip("INN can be started by root only")
    if not all((PROGRAMS / name).exists() for name in ("innd", "nnrpd", "makedbz")):
        pytest.skip("needs Debian's package inn2")
    inn = Inn(folder)
    try:
        inn.start()
        yield inn
    finally:
        inn.kill()
