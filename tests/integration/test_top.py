"""`top` as somebody uses it: keys, dialogs, sizes, and a trackproxy that goes and comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, Static

from tests.unit.operator_samples import endpoint, event, node, service, status
from trackproxy.commands.client import Client, Older, Refused, Unreachable
from trackproxy.commands.top.dialogs import DrainDialog, Help, Sure
from trackproxy.commands.top.screen import Top
from trackproxy.commands.top.tables import NodesTable, ServicesTable

DEADLINE_S = 10.0
GONE = Unreachable("no trackproxy answers at /t/control.sock; is it running, with this state_dir?")


class Told(Client):
    """A trackproxy that tells what a test wants, and notes its orders. error: what it raises instead."""

    def __init__(self) -> None:
        super().__init__(Path("/t/control.sock"))
        self.told_nodes = [node("b", web=endpoint(weight=2)), node("a", web=endpoint(weight=9))]
        self.told_status = status()
        self.told_events: list[dict[str, Any]] | None = [event(1), event(2)]
        self.error: Exception | None = None
        self.orders: list[tuple[Any, ...]] = []
        self.looks = 0
        self.go_on = Event()
        self.go_on.set()

    def status(self) -> dict[str, Any]:
        self.go_on.wait(DEADLINE_S)
        self.looks += 1
        self._raise()
        return self.told_status

    def services(self) -> dict[str, Any]:
        return {"services": [service()]}

    def nodes(self) -> dict[str, Any]:
        return {"nodes": self.told_nodes}

    def events(self, last: int) -> dict[str, Any]:
        if self.told_events is None:
            raise Older("it is older", status=404)
        return {"events": self.told_events}

    def drain(self, name: str, timeout: str, sticky: str) -> dict[str, Any]:
        return self._order("drain", name, timeout, sticky)

    def disable(self, name: str) -> dict[str, Any]:
        return self._order("disable", name)

    def ready(self, name: str) -> dict[str, Any]:
        return self._order("ready", name)

    def change(self, name: str, values: Any, service: str = "", if_version: str = "") -> dict[str, Any]:
        return self._order("change", name, values)

    def _order(self, *order: Any) -> dict[str, Any]:
        self._raise()
        self.orders.append(order)
        return {}

    def _raise(self) -> None:
        if self.error is not None:
            raise self.error


class Stage:
    """The view of a trackproxy, and hands at its keys."""

    def __init__(self, told: Told, app: Top, pilot: Pilot[None]) -> None:
        self.told, self.app, self.pilot = told, app, pilot
        self.table = app.query_one("#nodes", NodesTable)

    @property
    def names(self) -> list[str]:
        """The nodes in the order of the table."""
        return [self.table.get_row_at(place)[0].plain for place in range(self.table.row_count)]

    @property
    def chosen(self) -> str:
        """The node with the cursor."""
        return self.table.chosen.name if self.table.chosen else ""

    @property
    def notes(self) -> list[str]:
        """What has been notified."""
        return [note.message for note in self.app._notifications]

    def text(self, name: str) -> str:
        """What a part of the screen says."""
        return str(self.app.screen_stack[0].query_one(f"#{name}", Static).render())

    async def until(self, fact: Callable[[], bool]) -> None:
        """Let the screen live until it is so."""
        async with asyncio.timeout(DEADLINE_S):
            while not fact():
                await self.pilot.pause(0.005)

    async def press(self, *keys: str) -> None:
        """Press keys, and let the screen take them."""
        await self.pilot.press(*keys)
        await self.pilot.pause()

    async def looked(self) -> None:
        """Wait for a look that begins after now."""
        before = self.told.looks
        await self.until(lambda: self.told.looks >= before + 2)
        await self.pilot.pause()


@asynccontextmanager
async def shown(told: Told, size: tuple[int, int] = (80, 24)) -> AsyncIterator[Stage]:
    """The view, once it has seen something or failed to."""
    app = Top(told, interval_s=0.05)
    async with app.run_test(size=size) as pilot:
        stage = Stage(told, app, pilot)
        await stage.until(lambda: told.looks > 0)
        await stage.looked()
        yield stage
        told.go_on.set()


@pytest.fixture
def told() -> Told:
    return Told()


# --- what is shown ---


async def test_it_shows_program_services_nodes_the_chosen_probe_and_events(told: Told) -> None:
    async with shown(told) as stage:
        assert stage.text("head").startswith("trackproxy 1.2.3   up 1 h 2 min   generation 2   2 workers")
        assert stage.app.query_one("#services", ServicesTable).get_row_at(0)[0].plain == "web"
        assert stage.names == ["b", "a"]
        assert stage.text("detail") == "b in web, 10.0.0.1:80: passed: 200 in 1 ms"
        assert "event 1" in stage.text("events")
        assert "event 2" in stage.text("events")


async def test_values_move_and_the_cursor_stays_at_its_node(told: Told) -> None:
    async with shown(told) as stage:
        await stage.press("down")
        await stage.until(lambda: stage.chosen == "a")
        told.told_nodes = [node("0"), *told.told_nodes]
        await stage.until(lambda: stage.names == ["0", "b", "a"])
        assert stage.chosen == "a"
        told.told_nodes = told.told_nodes[:1]
        await stage.until(lambda: stage.names == ["0"])
        assert stage.chosen == "0"


async def test_no_node_at_all_is_no_error(told: Told) -> None:
    told.told_nodes = []
    async with shown(told) as stage:
        await stage.press("d", "x", "r", "w", "s")
        assert stage.names == []
        assert told.orders == []


async def test_an_older_trackproxy_is_shown_without_events(told: Told) -> None:
    told.told_events = None
    async with shown(told) as stage:
        assert stage.text("events") == "This trackproxy is older, and does not tell of events."
        assert stage.names == ["b", "a"]


@pytest.mark.parametrize("size", [(20, 5), (40, 12), (80, 24), (240, 70)])
async def test_no_line_is_wider_than_the_screen(told: Told, size: tuple[int, int]) -> None:
    told.told_events = [event(number, text="x" * 300) for number in range(60)]
    async with shown(told, size) as stage:
        for name in ("head", "detail", "events"):
            assert max(map(len, stage.text(name).splitlines())) <= size[0]
        await stage.pilot.resize_terminal(60, 20)
        await stage.until(lambda: max(map(len, stage.text("events").splitlines())) == 60)


async def test_control_characters_of_nodes_are_not_shown(told: Told) -> None:
    probe = {"passed": False, "reason": "\x1b[31mred", "took_ms": 1.0}
    told.told_nodes = [node("b", web=endpoint(probe=probe))]
    async with shown(told) as stage:
        assert "\x1b" not in stage.text("detail")
        assert "\x1b" not in stage.table.get_row_at(0)[-1].plain


# --- order and choice ---


async def test_s_sorts_by_the_next_column_and_capital_s_turns_it(told: Told) -> None:
    async with shown(told) as stage:
        await stage.press("s")
        await stage.until(lambda: stage.names == ["a", "b"])
        await stage.until(lambda: stage.chosen == "b")
        await stage.press("S")
        await stage.until(lambda: stage.names == ["b", "a"])
        for _ in range(4):
            await stage.press("s")
        await stage.until(lambda: str(stage.table.ordered_columns[4].label) == "WEIGHT▼")
        await stage.until(lambda: stage.names == ["a", "b"])
        await stage.looked()
        await stage.until(lambda: stage.names == ["a", "b"])


async def test_a_click_on_a_title_sorts_by_it_and_a_second_one_turns_it(told: Told) -> None:
    async with shown(told) as stage:
        await stage.pilot.click("#nodes", offset=(2, 0))
        await stage.until(lambda: stage.names == ["a", "b"])
        await stage.pilot.click("#nodes", offset=(2, 0))
        await stage.until(lambda: stage.names == ["b", "a"])


async def test_a_filter_is_typed_kept_and_left(told: Told) -> None:
    told.told_nodes = [node("one"), node("two1"), node("two2")]
    async with shown(told) as stage:
        await stage.press("slash", *"two")
        await stage.until(lambda: stage.names == ["two1", "two2"])
        await stage.press("enter")
        await stage.looked()
        await stage.until(lambda: stage.names == ["two1", "two2"])
        await stage.until(lambda: "filter: two" in stage.text("head"))
        await stage.until(lambda: stage.app.focused is stage.table)
        await stage.press("escape")
        await stage.until(lambda: stage.names == ["one", "two1", "two2"])
        await stage.until(lambda: "filter" not in stage.text("head"))


async def test_keys_typed_into_the_filter_give_no_orders(told: Told) -> None:
    async with shown(told) as stage:
        await stage.press("slash", *"xdrq")
        assert told.orders == []
        await stage.until(lambda: stage.app.query_one("#filter", Input).value == "xdrq")


async def test_p_stops_looking_until_it_is_pressed_again(told: Told) -> None:
    async with shown(told) as stage:
        await stage.press("p")
        await stage.until(lambda: "paused" in stage.text("head"))
        await stage.app.workers.wait_for_complete()
        looks = told.looks
        await stage.pilot.pause(0.2)  # four times the interval
        assert told.looks == looks
        await stage.press("p")
        await stage.until(lambda: told.looks > looks)
        await stage.until(lambda: "paused" not in stage.text("head"))


# --- orders ---


async def test_d_drains_the_chosen_node_as_the_dialog_says(told: Told) -> None:
    async with shown(told) as stage:
        await stage.press("down", "d")
        await stage.until(lambda: isinstance(stage.app.screen, DrainDialog))
        stage.app.screen.query_one("#timeout", Input).value = "5m"
        await stage.press("tab", "space", "tab", "enter")
        await stage.until(lambda: told.orders == [("drain", "a", "5m", "move")])
        await stage.until(lambda: stage.notes == ["a is being drained"])


async def test_enter_in_the_dialog_drains_and_keeps_sticky_clients(told: Told) -> None:
    async with shown(told) as stage:
        await stage.press("d", "enter")
        await stage.until(lambda: told.orders == [("drain", "b", "30s", "keep")])


@pytest.mark.parametrize("key", ["d", "w"])
async def test_escape_gives_no_order(told: Told, key: str) -> None:
    async with shown(told) as stage:
        await stage.press(key, "escape")
        await stage.looked()
        assert told.orders == []
        await stage.until(lambda: len(stage.app.screen_stack) == 1)


async def test_x_disables_and_r_makes_ready(told: Told) -> None:
    async with shown(told) as stage:
        await stage.press("x")
        await stage.until(lambda: told.orders == [("disable", "b")])
        await stage.press("r")
        await stage.until(lambda: told.orders[1:] == [("ready", "b")])


@pytest.mark.parametrize(("key", "orders"), [("y", [("disable", "b")]), ("n", []), ("enter", [])])
async def test_the_last_node_is_disabled_only_after_a_yes(told: Told, key: str, orders: list[Any]) -> None:
    told.told_nodes = [node("b"), node("a", "disabled")]
    async with shown(told) as stage:
        await stage.press("x")
        await stage.until(lambda: isinstance(stage.app.screen, Sure))
        assert "No other node can serve web now!" in _labels(stage)
        assert told.orders == []
        await stage.press(key)
        await stage.looked()
        await stage.app.workers.wait_for_complete()
        assert told.orders == orders


async def test_a_drain_of_the_last_node_is_warned_of(told: Told) -> None:
    told.told_nodes = [node("b")]
    async with shown(told) as stage:
        await stage.press("d")
        assert "No other node can serve web now!" in _labels(stage)


@pytest.mark.parametrize(("typed", "weight"), [("12", 12), ("0", 0), ("config", None)])
async def test_w_changes_the_weight(told: Told, typed: str, weight: int | None) -> None:
    async with shown(told) as stage:
        await stage.press("w", *typed, "enter")
        await stage.until(lambda: told.orders == [("change", "b", {"weight": weight})])


async def test_a_weight_that_is_no_number_is_refused(told: Told) -> None:
    async with shown(told) as stage:
        await stage.press("w", *"1x", "enter")
        await stage.until(lambda: stage.notes == ['give a whole number, or "config", not "1x"'])
        assert told.orders == []


async def test_what_is_refused_is_said(told: Told) -> None:
    async with shown(told) as stage:
        told.error = Refused('b: may only be read; the token in --token-file needs the role "write"')
        await stage.press("x")
        await stage.until(lambda: stage.notes == [str(told.error)])


async def test_keys_are_answered_while_a_look_takes_its_time(told: Told) -> None:
    async with shown(told) as stage:
        told.go_on.clear()
        await stage.press("s", "question_mark")
        await stage.until(lambda: stage.names == ["a", "b"])
        await stage.until(lambda: isinstance(stage.app.screen, Help))
        told.go_on.set()


async def test_q_ends_it(told: Told) -> None:
    async with shown(told) as stage:
        await stage.press("q")
        await stage.until(lambda: not stage.app.is_running)


# --- a trackproxy that goes ---


async def test_it_says_that_nobody_answers_keeps_what_it_saw_and_finds_it_again(told: Told) -> None:
    async with shown(told) as stage:
        told.error = GONE
        await stage.until(lambda: "no trackproxy answers at /t/control.sock" in stage.text("trouble"))
        await stage.until(lambda: "trying again (this is from " in stage.text("trouble"))
        await stage.until(lambda: stage.app.query_one("#trouble").display)
        await stage.until(lambda: stage.names == ["b", "a"])
        told.error, told.told_nodes = None, [node("c")]
        await stage.until(lambda: stage.names == ["c"])
        await stage.until(lambda: not stage.app.query_one("#trouble").display)


async def test_it_waits_for_a_trackproxy_that_is_not_there_yet(told: Told) -> None:
    told.error = GONE
    async with shown(told) as stage:
        await stage.until(lambda: stage.app.query_one("#trouble").display)
        await stage.until(lambda: stage.text("head") == "trackproxy at /t/control.sock")
        told.error = None
        await stage.until(lambda: stage.names == ["b", "a"])


def _labels(stage: Stage) -> str:
    return "\n".join(str(label.render()) for label in stage.app.screen.query("Label").results(Static))
