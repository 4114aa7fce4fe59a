"""Access logs of a whole trackproxy: moved away under load, shared by workers, on a disk that is full."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_cli import DEADLINE_S, run
from tests.e2e.test_commands import await_fact
from tests.e2e.test_processes import SERVING, Crowd, Stage

WRK_S = 3
SMALL_KIB = 64


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with ExitStack() as stack:
        yield Stage(tmp_path, stack)


def logged(path: Path, **more: str) -> str:
    """Settings with an access log at PATH."""
    lines = [
        "[services.web.access_log]",
        f'path = "{path}"',
        *(f"{key} = {value}" for key, value in more.items()),
    ]
    return "\n".join(lines)


def lines_in(*paths: Path) -> list[dict[str, Any]]:
    """What these files tell; each line has to be whole."""
    texts = [line for path in paths if path.exists() for line in path.read_bytes().splitlines(keepends=True)]
    assert all(text.endswith(b"}\n") for text in texts)
    return [json.loads(text) for text in texts]


@contextmanager
def load(stage: Stage) -> Iterator[None]:
    """wrk asks until it is left."""
    argv = ["wrk", "-t1", "-c16", f"-d{WRK_S}s", f"http://127.0.0.1:{stage.port}/x"]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as wrk:
        before = stage.requests()
        await_fact(lambda: stage.requests() > before + 50)
        yield
        assert wrk.wait(DEADLINE_S) == 0


needs_wrk = pytest.mark.skipif(not shutil.which("wrk"), reason="there is no wrk")


@needs_wrk
def test_moving_a_log_away_under_load_loses_no_line(stage: Stage, tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    path = folder / "web.log"
    stage.serve(more=logged(path))
    with load(stage):
        for number in range(5):
            path.rename(folder / f"web.log.{number}")
            stage.tell(signal.SIGUSR1, "access logs: opened anew")
            await_fact(lambda: path.exists() and path.stat().st_size > 0)
    await_fact(lambda: sum(map(_count, folder.iterdir())) >= stage.requests())
    requests = stage.requests()
    assert stage.ends(signal.SIGTERM) == 0
    lines = lines_in(*folder.iterdir())
    assert len(lines) == len({line["request_id"] for line in lines}) == requests
    assert all(line["end"] in ("ok", "client_gone") for line in lines)
    assert {line["request_id"][:16] for line in lines} != {lines[0]["request_id"][:16]}, (
        "both workers have served"
    )


def _count(path: Path) -> int:
    return path.read_bytes().count(b"\n")


@needs_wrk
def test_a_reload_loses_no_line(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "web.log"
    stage.serve(more=logged(path))
    with load(stage):
        for _ in range(2):
            stage.reload()
    stage.expect(r"generation \d+ has ended", 2)
    await_fact(lambda: _count(path) >= stage.requests())
    requests = stage.requests()
    assert stage.ends(signal.SIGTERM) == 0
    assert len(lines_in(path)) == requests


def test_a_stop_writes_the_last_lines(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "web.log"
    stage.serve(more=logged(path))
    for _ in range(10):
        stage.get()
    assert stage.ends(signal.SIGTERM) == 0
    assert [line["status"] for line in lines_in(path)] == [200] * 10


def test_a_killed_worker_leaves_whole_lines(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "web.log"
    stage.serve(more=logged(path))
    with Crowd(stage, keep_alive=True) as crowd:
        for count in (1, 2):
            os.kill(min(stage.serving()), signal.SIGKILL)
            stage.expect("was killed by SIGKILL", count)
            await_fact(lambda: len(stage.serving()) == 2)
            crowd.goes_on()
    assert stage.ends(signal.SIGTERM) == 0
    assert lines_in(path)


def test_sigusr1_without_a_log_changes_nothing(stage: Stage) -> None:
    stage.serve()
    stage.tell(signal.SIGUSR1, "access logs: opened anew")
    assert stage.get() == b"/x"
    stage.reload()
    assert stage.ends(signal.SIGTERM) == 0


def test_a_log_that_cannot_be_opened_is_told_before_anything_changes(stage: Stage, tmp_path: Path) -> None:
    bad = logged(tmp_path / "none" / "web.log")
    stage.write(more=bad)
    checked = run("check", "-c", stage.file)
    assert checked.returncode == 1
    assert "services.web.access_log.path: there is no folder" in checked.stderr + checked.stdout
    served = run("serve", "-c", stage.file)
    assert served.returncode == 1
    stage.serve()
    stage.write(more=bad)
    stage.tell(signal.SIGHUP, "not reloaded, the settings are wrong: .*there is no folder")
    assert stage.get() == b"/x"
    assert not (tmp_path / "none").exists()


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of SMALL_KIB at FOLDER; skips the test where that may not be."""
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SMALL_KIB}k", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("may not mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_costs_no_request_and_is_told_once(stage: Stage, tmp_path: Path) -> None:
    with small_disk(tmp_path / "small"):
        ballast = tmp_path / "small" / "ballast"
        ballast.write_bytes(b"x" * (SMALL_KIB - 8) * 1024)
        path = tmp_path / "small" / "web.log"
        stage.serve(workers=1, more=logged(path))
        with Crowd(stage, keep_alive=True) as crowd:
            stage.expect("web.log cannot be written, its lines wait: .*No space left")
            crowd.goes_on()
        assert crowd.lost == []
        assert stage.log.count("cannot be written") == 1
        ballast.write_bytes(b"")
        stage.expect("web.log: it is written again")
        answered = sum(crowd.answered)
        assert stage.ends(signal.SIGTERM) == 0
        whole = [line for line in path.read_bytes().splitlines() if line.endswith(b"}")]
        assert len(whole) >= answered


def test_lines_go_to_standard_output(stage: Stage, tmp_path: Path) -> None:
    stage.write(more=logged(Path("-"), format='"fields"', fields='["status", "target"]'))
    out = tmp_path / "out"
    with out.open("wb") as file:
        saved = os.dup(1)
        os.dup2(file.fileno(), 1)
        try:
            stage.start()
        finally:
            os.dup2(saved, 1)
            os.close(saved)
    stage.expect(SERVING)
    stage.get()
    await_fact(lambda: b"200 /x\n" in out.read_bytes())
