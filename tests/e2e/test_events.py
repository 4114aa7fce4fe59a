"""Events of a trackproxy in processes of its own: as followers see them, and as its log has them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.health_stage import NEVER, Stage, names, staged
from tests.e2e.scripted_node import until
from tests.e2e.test_cli import DEADLINE_S
from tests.e2e.test_commands import status
from trackproxy.commands.client import Refused

URL = "http://localhost/api/v1/events"
JSON = 'log_format = "json"'

Event = dict[str, Any]


class Followed:
    """What a follower has seen. over: the stream has ended; whole: and was not cut."""

    def __init__(self) -> None:
        self.seen: list[Event] = []
        self.over = self.whole = False
        self.open = asyncio.Event()

    def found(self, **fields: object) -> list[Event]:
        """Those that have these fields."""
        return [one for one in self.seen if fields.items() <= one.items()]

    async def comes(self, deadline_s: float = DEADLINE_S, **fields: object) -> Event:
        """Wait for an event with these fields; the first one."""
        try:
            await until(lambda: self.found(**fields), deadline_s)
        except AssertionError as error:
            raise AssertionError(f"no {fields} in {self.seen}") from error
        return self.found(**fields)[0]

    async def read(self, path: Path, query: dict[str, str]) -> None:
        connector = aiohttp.UnixConnector(str(path))
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            with suppress(aiohttp.ClientConnectionError, aiohttp.ClientPayloadError):
                async with session.get(URL, params=query | {"follow": "true"}) as response:
                    self.open.set()
                    async for line in response.content:
                        if line.startswith(b"data: "):
                            self.seen.append(json.loads(line[6:]))
                    self.whole = True
        self.over = True


@asynccontextmanager
async def following(stage: Stage, **query: str) -> AsyncIterator[Followed]:
    """The events from now on, or as QUERY says."""
    followed = Followed()
    reading = asyncio.create_task(followed.read(stage.socket, query))
    try:
        async with asyncio.timeout(DEADLINE_S):
            await followed.open.wait()
        yield followed
    finally:
        reading.cancel()
        await asyncio.wait({reading})


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as one:
        yield one


async def start(stage: Stage, **settings: Any) -> None:
    """Start, and wait until it takes orders."""
    await stage.start(**settings)
    await until(lambda: status(stage.socket, "/readyz") == 200)


def lines(stage: Stage) -> list[Event]:
    """The log, which must be one JSON object a line."""
    return [json.loads(line) for line in stage.log.splitlines()]


def shape(event: Event) -> tuple[object, ...]:
    return event["at"], event["level"], event["kind"], event["text"]


async def call(stage: Stage, method: str, *arguments: object) -> object:
    return await asyncio.to_thread(getattr(stage.client, method), *arguments)


def serving(stage: Stage) -> int:
    """The process id of a worker that serves: one that has listeners, unlike a spare one."""
    found = stage.workers()
    return max(found, key=lambda pid: len(found[pid]))


async def test_a_whole_life_is_told_in_the_log_and_to_followers_alike(stage: Stage) -> None:
    gone, *_ = await stage.add("gone", "out", "on")
    await start(stage, more=JSON)
    async with following(stage, last="1000") as followed:
        started = await followed.comes(kind="start")
        assert started["text"] == "started: generation 1 serves, 1 service, 3 nodes, 2 workers"

        begun = time.monotonic()
        await gone.stop()
        await followed.comes(1.0 - (time.monotonic() - begun), kind="health", node="gone", state="down")
        await gone.start()
        await followed.comes(kind="health", node="gone", state="up", was="down")

        await call(stage, "drain", "out", "20s", "move")
        await followed.comes(kind="audit", what="drain", node="out", to="drain", outcome="done")
        await followed.comes(kind="drain", node="out", state="begun")
        await followed.comes(kind="drain", node="out", state="ended", outcome="empty")
        await followed.comes(kind="node_state", node="out", state="disabled", was="drain")
        await call(stage, "ready", "out")
        ready = await followed.comes(kind="audit", what="ready", node="out")
        assert (ready["who"], ready["from"], ready["to"]) == ("local socket", "disabled", "ready")

        await call(stage, "change", "on", {"weight": 3}, "web")
        await followed.comes(kind="node_values", node="on", service="web", weight=3, was="weight 1")
        values = await followed.comes(kind="audit", what="values", node="on", service="web", outcome="done")
        assert (values["from"], values["to"]) == ("weight 1", "weight 3")

        await stage.reload()
        reload = await followed.comes(kind="reload", who="local socket")
        await followed.comes(kind="audit", what="reload", outcome="done")
        stage.file.write_text("nonsense = 1\n")
        assert stage.process is not None
        stage.process.send_signal(signal.SIGHUP)
        failed = await followed.comes(kind="reload_failed", who="signal")
        assert "nonsense" in failed["reason"]
        await followed.comes(kind="audit", who="signal", what="reload")

        await until(lambda: len(stage.workers()) == 3)  # two and a spare one: the generation before has ended
        os.kill(serving(stage), signal.SIGKILL)
        died = await followed.comes(kind="worker", state="died", reason="was killed by SIGKILL")
        assert died["generation"] == reload["generation"]
        await followed.comes(kind="worker", state="started", worker=died["worker"])

        await stage.end()
        await followed.comes(kind="audit", who="signal", what="stop")
        await followed.comes(kind="stop", state="ended", text="stopped")
        await until(lambda: followed.over)
    told = lines(stage)
    assert {one["process"] for one in told} >= {"supervisor"}
    assert sorted(map(shape, followed.seen)) == sorted(shape(one) for one in told if one["kind"] != "log")
    assert [one["id"] for one in followed.seen] == [*range(1, len(followed.seen) + 1)]


async def test_what_workers_see_is_told_by_them_once(stage: Stage) -> None:
    sick, _ = await stage.add("sick", "on")
    await start(stage, more=JSON, probe=NEVER)
    async with following(stage, last="1000") as followed, stage.load(3) as answers:
        await until(lambda: "sick" in names(answers))
        sick.resets = True
        out = await followed.comes(1.0, kind="ejection", node="sick", state="out")
        assert (out["service"], out["level"], out["generation"]) == ("web", "warning", 1)
        assert out["worker"] in (1, 2)
        process = f"worker {out['worker']}"
        [told] = [one for one in lines(stage) if (*shape(one), one["process"]) == (*shape(out), process)]
        assert (told["reason"], told["address"]) == (out["reason"], out["address"])
        sick.resets = False
        await followed.comes(kind="ejection", node="sick", state="in", level="info")


async def test_one_process_alone_tells_the_same(stage: Stage) -> None:
    sick, _ = await stage.add("sick", "on")
    await start(stage, more=JSON, probe=NEVER, workers=0)
    async with following(stage) as followed, stage.load(3) as answers:
        await until(lambda: "sick" in names(answers))
        sick.resets = True
        out = await followed.comes(kind="ejection", node="sick", state="out")
    assert {one["process"] for one in lines(stage) if one["text"] == out["text"]} == {"supervisor"}
    assert len(followed.found(text=out["text"], at=out["at"])) == 1


async def test_each_probe_is_told_to_those_who_ask(stage: Stage) -> None:
    await stage.add("one", "two")
    await start(stage)
    async with following(stage, probes="all") as curious, following(stage) as other:
        probe = await curious.comes(kind="probe", node="two", passed=True)
        assert (probe["service"], probe["id"]) == ("web", None)
        assert probe["took_ms"] > 0
        await stage.reload()
        await other.comes(kind="reload")
        assert other.found(kind="probe") == []
    assert "a probe has" not in stage.log


async def test_form_and_level_of_the_log_follow_a_reload_in_all_processes(stage: Stage) -> None:
    sick, _ = await stage.add("sick", "on")
    await start(stage, probe=NEVER)
    stage.write(probe=NEVER, more=f'{JSON}\nlog_level = "warning"')
    await stage.reload()
    before = len(stage.log.splitlines())
    async with following(stage) as followed, stage.load(3) as answers:
        await until(lambda: "sick" in names(answers))
        sick.resets = True
        await followed.comes(kind="ejection", node="sick", state="out")
        await call(stage, "disable", "on")
        await followed.comes(kind="audit", what="disable", level="info")
        stage.file.write_text("nonsense = 1\n")
        with pytest.raises(Refused):
            await stage.reload()
        await followed.comes(kind="reload_failed")
    later = [json.loads(line) for line in stage.log.splitlines()[before:]]
    assert {"worker 1", "worker 2"} & {one["process"] for one in later}
    assert {one["kind"] for one in later if one["process"] == "supervisor"} >= {"reload_failed"}
    assert {one["level"] for one in later} <= {"warning", "error"}


async def test_numbers_go_on_over_an_upgrade_which_is_told(stage: Stage) -> None:
    await stage.add("one")
    await start(stage, more=JSON)
    async with following(stage, last="1000") as before:
        await before.comes(kind="start")
        assert stage.process is not None
        stage.process.send_signal(signal.SIGUSR2)
        await before.comes(kind="upgrade", state="begun", who="signal")
        await until(lambda: before.over)
    await until(lambda: status(stage.socket, "/readyz") == 200)
    async with following(stage, last="1000") as after:
        done = await after.comes(kind="upgrade", state="done")
    assert done["generation"] == 2
    assert after.seen[0]["id"] == before.seen[-1]["id"] + 1
    await stage.end()
    assert all(lines(stage))


async def test_a_stop_waits_for_no_follower(stage: Stage) -> None:
    await stage.add("one")
    await start(stage)
    async with following(stage) as one, following(stage) as two:
        await stage.end()
        for followed in (one, two):
            await followed.comes(kind="stop", state="ended")
        await until(lambda: one.over and two.over)
    assert one.whole
    assert two.whole


@pytest.mark.parametrize("form", ["text", "json"])
async def test_what_a_node_says_makes_no_line_of_its_own(stage: Stage, form: str) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"554-\x1b[31m\r2026-01-01 00:00:00,000 INFO stopped\x85\xe2\x80\xa8{}\r\n554 \x07\r\n")
        with suppress(OSError):
            await reader.read()
        writer.close()

    await stage.add("on")
    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        stage.write(more=f'log_format = "{form}"')
        text = f'\n[services.mail]\nprotocol = "smtp"\nlisten = ["127.0.0.1:{stage._ports.pop()}"]\n'
        text += f'[services.mail.nodes.on]\naddress = "127.0.0.1:{port}"\n'
        stage.file.write_text(stage.file.read_text() + text)
        stage.launch()
        await stage.expect("serving on")
        await until(lambda: status(stage.socket, "/readyz") == 200)
        async with following(stage, last="1000") as followed:
            down = await followed.comes(kind="health", service="mail", state="down")
            assert "554" in down["reason"]
            assert down["text"].isprintable()
            stage.file.write_text(r'"a\u001b[31m\n2026-01-01 00:00:00,000 INFO fake" = 1')
            with pytest.raises(Refused):
                await stage.reload()
            failed = await followed.comes(kind="reload_failed")
        assert r"a\x1b[31m\n" in failed["reason"]  # the rest may be cut off
        await stage.end()
    assert stage.log.replace("\n", "").isprintable()
    if form == "json":
        assert all(lines(stage))
    else:
        assert all(
            re.match(r"[\d-]{10} [\d:,]{12} (INFO|WARNING|ERROR) ", line) for line in stage.log.splitlines()
        )
    assert "\n2026-01-01 " not in stage.log


async def test_a_start_that_fails_is_told_in_the_log_s_own_form(stage: Stage) -> None:
    await stage.add("one")
    stage.write(more=JSON)
    async with await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", stage.port):
        stage.launch()
        assert stage.process is not None
        assert await asyncio.to_thread(stage.process.wait, DEADLINE_S) == 1
    last = lines(stage)[-1]
    assert (last["kind"], last["state"], last["level"]) == ("stop", "not started", "error")
    assert f"127.0.0.1:{stage.port}" in last["reason"]
