"""Health on disk: what comes back after a restart, and what a bad disk does about it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from trackproxy.control.memory import FILE, recall, remember, state_folder


def test_what_was_kept_comes_back(tmp_path: Path) -> None:
    remember(tmp_path / "new" / "folder", {"web a 1": True, "web b 1": False})
    assert recall(tmp_path / "new" / "folder") == {"web a 1": True, "web b 1": False}


def test_the_folder_is_for_its_owner_alone_and_no_draft_stays(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    remember(folder, {"a": True})
    assert folder.stat().st_mode & 0o777 == 0o700
    assert os.listdir(folder) == [FILE]


def test_nothing_is_known_before_the_first_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert recall(tmp_path) == {}
    assert caplog.text == ""


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[]", b"null", b'"up"', b'{"a": true'],
    ids=["empty", "cut off", "no text", "a list", "nothing", "a string", "half written"],
)
def test_a_file_of_no_use_is_said_and_forgotten(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE).write_bytes(content)
    assert recall(tmp_path) == {}
    assert "is of no use, so every endpoint is probed first" in caplog.text


def test_values_that_say_neither_up_nor_down_are_left_out(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(json.dumps({"a": True, "b": "yes", "c": None, "d": 1}))
    assert recall(tmp_path) == {"a": True}


def test_a_folder_in_the_place_of_the_file_is_of_no_use(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    assert recall(tmp_path) == {}


def test_a_disk_that_takes_nothing_is_an_error_and_leaves_what_was_there(tmp_path: Path) -> None:
    remember(tmp_path, {"a": True})
    draft = tmp_path / f"{FILE}.{os.getpid()}"
    draft.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        remember(tmp_path, {"a": False})
    assert recall(tmp_path) == {"a": True}
    assert not draft.exists()


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(OSError, match="exists"):
        remember(tmp_path / "state", {})


def test_the_folder_is_as_configured_then_systemds_then_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", "/home/x/state")
    assert state_folder("") == Path("/home/x/state/trackproxy")
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/a:/var/lib/b")
    assert state_folder("") == Path("/var/lib/a")
    assert state_folder("/srv/state") == Path("/srv/state")
