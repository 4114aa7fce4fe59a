"""The dashboard as an operator meets it: a real Chromium over a trackproxy that serves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.chaos.processes import fixed_ports
from tests.e2e.dashboard_stage import (
    Opener,
    Stage,
    chromium,
    failures,
    load,
    needs_programs,
    nginx,
    tabs,
)
from tests.e2e.test_commands import await_fact

pytestmark = needs_programs

AXE = Path(__file__).parent / "vendor" / "axe" / "axe.min.js"
NODES = ("node1", "node2", "node3")
HOSTILE = "<img src=x onerror=alert(1)>\"'&<script>alert(2)</script> __proto__ " + "x" * 200
TROUBLE = "Failed to load resource"  # what a browser says of each answer that is an error

both_themes = pytest.mark.parametrize("theme", ["light", "dark"])
both_widths = pytest.mark.parametrize("width", [1280, 390])


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as one:
        yield one


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Where nginx answers, on every loopback address."""
    [one] = fixed_ports(1)
    with nginx(tmp_path_factory.mktemp("nodes") / "nginx", [one]):
        yield one


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("dashboard") / "trackproxy"
    addresses = {name: f"127.0.0.{number}:{port}" for number, name in enumerate(NODES, 1)}
    stage = Stage(folder, addresses)
    stage.start()
    yield stage
    stage.kill()


@pytest.fixture
def stage(lasting: Stage) -> Stage:
    """Three nodes, all ready."""
    lasting.reset(NODES)
    return lasting


@pytest.fixture
def opened(browser: Browser) -> Iterator[Opener]:
    with tabs(browser) as opener:
        yield opener


def number(text: str) -> float:
    found = re.match(r"[\d,.]+", text)
    assert found, text
    return float(found[0].replace(",", ""))


# --- what it shows ---


def test_values_move_while_clients_ask(stage: Stage, opened: Opener) -> None:
    tab = opened(stage)
    page = tab.open()
    total = tab.node().locator("[data-part=total]")
    with load(stage.port):
        expect(tab.node().locator("[data-part=rate]")).to_have_text(re.compile(r"[1-9].*/s"))
        expect(page.locator("#service-rows [data-part=latency]")).to_have_text(re.compile(r"\d\.\d\d / \d"))
        expect(page.locator("#service-rows .spark canvas")).to_have_count(2)
        expect(tab.node().locator(".spark canvas")).to_have_count(1)
        before = number(total.inner_text())
        await_fact(lambda: number(total.inner_text()) > before)
    expect(page.locator("#connection")).to_have_text("live")


def test_what_is_not_reached_is_down_with_the_reason(port: int, tmp_path: Path, opened: Opener) -> None:
    [nobody] = fixed_ports(1)
    stage = Stage(tmp_path / "t", {"node1": f"127.0.0.1:{port}", "node2": f"127.0.0.1:{nobody}"})
    stage.start()
    try:
        tab = opened(stage)
        page = tab.open()
        expect(tab.node("node2").locator("[data-part=health]")).to_have_text("down")
        expect(tab.node("node2").locator("[data-part=probe]")).to_have_text(
            re.compile(r"^failed, \d+ s ago$")
        )
        expect(tab.node("node2").locator("[data-part=reason]")).to_have_text("connection refused")
        expect(tab.node("node2").locator("[data-part=unit]")).to_have_text("no traffic yet")
        expect(page.locator("#service-rows [data-part=status]")).to_have_text("degraded")
        expect(page.locator("#service-rows [data-part=nodes]")).to_have_text("1/2")
        page.get_by_label("only with trouble").check()
        expect(tab.node("node1")).to_be_hidden()
        expect(page.locator("#nodes-count")).to_have_text("1 of 2 nodes")
    finally:
        stage.kill()


# --- what it does ---


def test_a_drain_and_its_end_by_click_lose_no_request(stage: Stage, opened: Opener) -> None:
    tab = opened(stage)
    page = tab.open()
    with load(stage.port, connections=16) as clients:
        expect(tab.node().locator("[data-part=rate]")).to_have_text(re.compile("[1-9]"))
        tab.press("Drain")
        page.get_by_label("Timeout in seconds").fill("20")
        page.get_by_label("move with their next request").check()
        page.get_by_role("dialog").get_by_role("button", name="Drain").click()
        tab.has_state("disabled")
        expect(tab.node().locator("[data-part=left]")).to_have_text("drained: nothing was open any more")
        assert stage.node()["drain"]["sticky"] == "move"
        tab.press("Ready")
        tab.has_state("ready")
        answered, wrong = failures(clients)
    assert answered > 100
    assert wrong == []


def test_a_drain_that_waits_counts_down(stage: Stage, opened: Opener, tmp_path: Path) -> None:
    tab = opened(stage)
    page = tab.open()
    with page.expect_response(re.compile("/drain$")):
        page.route("**/api/v1/nodes", draining(37.0, {"requests": 2, "tunnels": 0, "sessions": 1, "idle": 3}))
        tab.press("Drain", "node2")
        page.get_by_role("dialog").get_by_role("button", name="Drain").click()
    tab.has_state("draining")
    left = tab.node().locator("[data-part=left]")
    expect(left).to_have_text("37 s left; 2 requests and 1 session open")
    expect(tab.node().get_by_role("progressbar")).to_be_visible()


def draining(seconds_left: float, left: dict[str, int]) -> Any:
    """Tell of node1 that it is draining so long."""

    def change(nodes: list[dict[str, Any]]) -> None:
        nodes[0] |= {"state": "drain", "left": left}
        nodes[0]["drain"] = {"seconds_left": seconds_left, "sticky": "keep", "outcome": None}

    return told(change)


def told(change: Any) -> Any:
    """Tell of nodes as the API does, after a CHANGE."""

    def answer(route: Route) -> None:
        response = route.fetch()
        tree = response.json()
        change(tree["nodes"])
        route.fulfill(response=response, json=tree)

    return answer


def test_disabling_the_last_node_of_a_service_is_asked_about(stage: Stage, opened: Opener) -> None:
    tab = opened(stage)
    page = tab.open()
    for name in ("node2", "node3"):
        tab.press("Disable", name)
        tab.has_state("disabled", name)
    tab.press("Disable")
    dialog = page.get_by_role("dialog", name="Disable node1?")
    expect(dialog).to_contain_text("the last node that takes new clients of web")
    dialog.get_by_role("button", name="Cancel").click()
    assert stage.node()["state"] == "ready"
    tab.press("Disable")
    dialog.get_by_role("button", name="Disable").click()
    tab.has_state("disabled")


def test_a_weight_is_changed_and_said_to_be_and_can_be_as_configured_again(
    stage: Stage, opened: Opener
) -> None:
    tab = opened(stage)
    page = tab.open()
    tab.press("Weight")
    page.get_by_label("Weight, from 0 to 256").fill("7")
    page.get_by_role("dialog").get_by_role("button", name="Set").click()
    tab.has_result("node1 has weight 7.")
    expect(tab.node().locator("[data-part=weight]").last).to_have_text("7*")
    changed = tab.node().locator("[data-part=changes]")
    expect(changed).to_have_text(re.compile(r"^weight 7\*: configured 1, by .+, \d\d:\d\d:\d\d$"))
    assert stage.node()["services"]["web"]["weight"] == 7
    tab.press("Weight")
    page.get_by_role("dialog").get_by_role("button", name="As configured").click()
    tab.has_result("node1 has its weight as configured.")
    expect(changed).to_be_hidden()
    assert stage.node()["services"]["web"]["weight"] == 1


def test_what_the_api_refuses_is_said_in_its_words(stage: Stage, opened: Opener) -> None:
    tab = opened(stage)
    page = tab.open()
    tab.allowed = TROUBLE
    tab.press("Weight")
    page.get_by_label("Weight, from 0 to 256").evaluate("field => { field.max = 999; field.value = 999; }")
    page.get_by_role("dialog").get_by_role("button", name="Set").click()
    tab.has_result(re.compile("node1 was not changed: weight: must be a whole number from 0 to 256"))


# --- what has happened ---


def test_events_are_shown_as_they_happen_and_those_before_too(stage: Stage, opened: Opener) -> None:
    stage.client.disable("node2")
    tab = opened(stage)
    page = tab.open()
    newest = page.locator("#events li").first
    expect(page.locator("#events-state")).to_have_text("live")
    expect(newest).to_contain_text("node2")
    stage.client.disable("node3")
    expect(newest).to_contain_text("node3")
    page.get_by_label("Level").select_option("errors")
    expect(page.locator("#events li")).to_have_count(0)
    expect(page.locator("#events-empty")).to_have_text("No event is like that.")
    page.get_by_label("Level").select_option("all")
    page.get_by_label("Kind").select_option("node state")
    kinds = set(page.locator("#events [data-part=kind]").all_inner_texts())
    assert kinds == {"node state"}


def test_events_are_asked_for_if_they_are_not_streamed(stage: Stage, opened: Opener) -> None:
    tab = opened(stage)
    tab.allowed = TROUBLE

    def refuse(route: Route) -> None:
        streamed = "event-stream" in route.request.headers["accept"]
        route.fulfill(status=503, body="{}") if streamed else route.continue_()

    tab.page.route("**/api/v1/events*", refuse)
    page = tab.open()
    expect(page.locator("#events-state")).to_have_text("asked for every few seconds")
    stage.client.disable("node2")
    expect(page.locator("#events li").first).to_contain_text("node2")


# --- by keyboard ---


def test_a_node_is_drained_by_keyboard_alone(stage: Stage, opened: Opener) -> None:
    page = opened(stage).open()
    focused = "document.activeElement.textContent.trim()"
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate(focused) == "Drain… node1":
            break
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert (page.evaluate(focused), outline) == ("Drain… node1", "solid")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Timeout in seconds")).to_be_focused()
    for _ in range(12):
        page.keyboard.press("Tab")
        inside = "document.activeElement === document.body || !!document.activeElement.closest('dialog')"
        assert page.evaluate(inside)
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert page.evaluate(focused) == "Drain… node1"
    page.keyboard.press("Enter")
    page.keyboard.type("5")
    page.keyboard.press("Enter")
    expect(page.get_by_role("article", name="node1").locator(".state")).to_have_text(
        re.compile("draining|disabled")
    )
    assert page.evaluate(focused) == "Drain… node1"


def test_a_question_that_is_asked_again_at_once_is_one_question(stage: Stage, opened: Opener) -> None:
    tab = opened(stage)
    page = tab.open()
    tab.press("Drain")
    button = tab.node().get_by_role("button", name=re.compile("^Drain"), include_hidden=True)
    no_and_again = "button => { document.querySelector('dialog[open]').close(); button.click(); }"
    orders: list[str] = []
    page.on("request", lambda request: orders.append(request.url) if request.method == "POST" else None)
    button.evaluate(no_and_again)
    dialog = page.get_by_role("dialog", name="Drain node1")
    expect(dialog).to_be_visible()
    dialog.get_by_role("button", name="Drain").click()
    tab.has_result("node1 is draining.")
    assert len(orders) == 1


# --- how it looks ---


@both_themes
@both_widths
def test_axe_finds_nothing_serious(stage: Stage, opened: Opener, theme: Any, width: int) -> None:
    stage.client.disable("node2")
    tab = opened(stage, width, color_scheme=theme, reduced_motion="reduce", bypass_csp=True)
    page = tab.open()
    page.add_script_tag(content=AXE.read_text())
    assert serious(page) == []
    tab.press("Drain")
    assert serious(page) == []


def serious(page: Page) -> list[str]:
    """What axe says of the page, unless it is of little weight."""
    run = "axe.run(document, {resultTypes: ['violations']}).then(found => found.violations)"
    return [
        f"{one['id']}: {node['target']}: {node['failureSummary']}"
        for one in page.evaluate(run)
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


BESIDE = """() => [...document.querySelectorAll(".panel")].flatMap(panel => {
  const edge = panel.getBoundingClientRect().right;
  const parts = [...panel.querySelectorAll(".row > *, .ident > *, .ident button")];
  return parts.filter(part => part.getBoundingClientRect().right > edge).map(part => part.textContent);
})"""


@pytest.mark.parametrize("width", [1920, 1280, 1040, 1000, 768, 390, 360])
def test_nothing_stands_beside_the_page_however_long_names_are(
    stage: Stage, opened: Opener, width: int
) -> None:
    tab = opened(stage, width)
    tab.page.route("**/api/v1/nodes", told(with_hostile_text))
    page = tab.open()
    expect(page.locator("#nodes")).to_contain_text("onerror")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(BESIDE) == []


def test_a_theme_that_was_chosen_stays(stage: Stage, opened: Opener) -> None:
    page = opened(stage, color_scheme="light").open()
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("button", name="Theme: system").click()
    page.get_by_role("button", name="Theme: light").click()
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark != light
    page.reload()
    expect(page.get_by_role("button", name="Theme: dark")).to_be_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark


# --- whom it trusts ---


def with_hostile_text(nodes: list[dict[str, Any]]) -> None:
    first = nodes[0]
    first |= {"name": HOSTILE, "state": HOSTILE}
    first["sources"]["weight"] |= {"source": "run time", "changed_by": HOSTILE, "changed_at": 0}
    endpoint = first["services"].pop("web")
    endpoint |= {"address": HOSTILE, "health": HOSTILE, "probe": {"passed": False, "reason": HOSTILE}}
    first["services"] |= {HOSTILE: endpoint, "__proto__": endpoint, "constructor": endpoint}


def test_hostile_text_is_shown_as_text(stage: Stage, opened: Opener) -> None:
    tab = opened(stage)
    tab.page.on("dialog", lambda dialog: tab.errors.append(dialog.message))
    tab.page.route("**/api/v1/nodes", told(with_hostile_text))
    page = tab.open()
    assert page.locator("#nodes h3").first.inner_text() == HOSTILE.strip()
    for part in ("label", "address", "reason"):
        expect(page.locator(f"#nodes [data-part={part}]").first).to_have_text(HOSTILE)
    assert page.locator("#nodes img, #nodes script").count() == 0
    tab.press("Drain", HOSTILE)
    expect(page.get_by_role("dialog")).to_contain_text("onerror=alert(1)")


READER, WRITER = "a-token-of-a-reader", "a-token-of-a-writer"
TOKENS = (
    "[admin]\ntokens = ["
    + ", ".join(
        f'{{ name = "{name}", role = "{role}", hash = "sha256:{sha256(secret.encode()).hexdigest()}" }}'
        for name, role, secret in (("rita", "read", READER), ("walt", "write", WRITER))
    )
    + "]"
)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[Stage]:
    """One node, and nobody is let in without a token."""
    folder = tmp_path_factory.mktemp("guarded") / "trackproxy"
    stage = Stage(folder, {"node1": f"127.0.0.1:{port}"}, more=TOKENS)
    stage.start()
    yield stage
    stage.kill()


def give(page: Page, token: str) -> None:
    page.get_by_role("textbox", name="Token").fill(token)
    page.get_by_role("button", name="Go on").click()


def test_who_has_no_token_is_asked_for_one_and_sees_nothing(guarded: Stage, opened: Opener) -> None:
    tab = opened(guarded)
    tab.allowed = TROUBLE
    page = tab.page
    page.goto(guarded.url)
    expect(page.get_by_role("dialog", name="Token")).to_be_visible()
    give(page, "nobodys-token")
    expect(page.get_by_role("dialog")).to_contain_text("The token was not accepted.")
    expect(page.locator("article.node")).to_have_count(0)
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    expect(page.locator("#connection")).to_have_text("token needed")
    page.get_by_role("button", name="Enter token…").click()
    give(page, WRITER)
    expect(page.locator("#who")).to_have_text("walt")
    expect(page.locator("article.node")).to_have_count(1)


def test_a_token_that_may_only_read_changes_nothing(guarded: Stage, opened: Opener) -> None:
    tab = opened(guarded)
    tab.allowed = TROUBLE
    page = tab.page
    page.goto(guarded.url)
    give(page, READER)
    expect(page.locator("#who")).to_have_text("rita · read-only")
    expect(page.locator("#read-only")).to_contain_text("Read-only")
    buttons = tab.node().get_by_role("button")
    expect(buttons).to_have_count(4)
    for button in buttons.all():
        expect(button).to_be_disabled()


def test_a_token_is_forgotten_when_it_is_to_be(guarded: Stage, opened: Opener) -> None:
    tab = opened(guarded)
    tab.allowed = TROUBLE
    page = tab.page
    page.goto(guarded.url)
    give(page, WRITER)
    expect(page.locator("#who")).to_have_text("walt")
    assert page.evaluate("JSON.stringify(localStorage)") == "{}"
    page.reload()
    expect(page.locator("#who")).to_have_text("walt")
    page.get_by_role("button", name="Forget token").click()
    expect(page.get_by_role("dialog", name="Token")).to_be_visible()
    assert page.evaluate("sessionStorage.length") == 0


# --- when things go wrong ---


def test_what_somebody_else_has_changed_meanwhile_is_shown_instead_of_undone(
    stage: Stage, opened: Opener
) -> None:
    tab = opened(stage)
    tab.allowed = TROUBLE
    page = tab.open()
    tab.press("Weight")
    stage.client.change("node1", {"weight": 5})
    page.get_by_label("Weight, from 0 to 256").fill("7")
    page.get_by_role("dialog").get_by_role("button", name="Set").click()
    tab.has_result("node1 was not changed: somebody else has changed it meanwhile.")
    tab.has_result("It is ready now, with weight 5.")
    expect(tab.node().locator("[data-part=weight]").last).to_have_text("5*")
    assert stage.node()["services"]["web"]["weight"] == 5


def test_it_says_that_nobody_answers_and_goes_on_after_a_restart(
    port: int, tmp_path: Path, opened: Opener
) -> None:
    stage = Stage(tmp_path / "t", {"node1": f"127.0.0.1:{port}"})
    stage.start()
    try:
        tab = opened(stage)
        page = tab.open()
        tab.allowed = "ERR_CONNECTION_REFUSED|ERR_INCOMPLETE|ERR_CONNECTION_RESET|ERR_SOCKET|ERR_EMPTY"
        expect(page.locator("#connection")).to_have_text("live")
        started = page.locator("#events .kind", has_text="start")
        expect(started).to_have_count(1)
        stage.kill()
        expect(page.locator("#connection")).to_have_text("reconnecting")
        expect(page.locator("#age")).to_have_text(re.compile(r"data [2-9] s old"))
        stage.start()
        expect(page.locator("#connection")).to_have_text("live")
        expect(started).to_have_count(2)  # what was told before is not forgotten
        tab.press("Disable")
        page.get_by_role("dialog").get_by_role("button", name="Disable").click()
        tab.has_state("disabled")
    finally:
        stage.kill()


def test_it_asks_nothing_while_nobody_sees_it(stage: Stage, opened: Opener) -> None:
    tab = opened(stage)
    page = tab.open()
    asked: list[str] = []
    hidden = "Object.defineProperty(document, 'hidden', {{get: () => {}, configurable: true}}); \
        document.dispatchEvent(new Event('visibilitychange'))"
    page.evaluate(hidden.format("true"))
    page.wait_for_load_state("networkidle")
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(2500)  # more than two beats: that nothing comes is what is waited for
    assert asked == []
    with page.expect_response("**/api/v1/nodes"):
        page.evaluate(hidden.format("false"))


# --- many ---


def test_fifty_nodes_of_five_services_take_little_of_the_browser(
    port: int, tmp_path: Path, opened: Opener
) -> None:
    names = {f"node{one}": f"127.0.0.{one}:{port}" for one in range(1, 51)}
    stage = Stage(tmp_path / "t", names, ("web", "pixels", "clicks", "forms", "files"))
    stage.start()
    try:
        tab = opened(stage)
        page = tab.open()
        expect(page.locator("article.node")).to_have_count(50)
        first = page.locator("#nodes .row .name").first.element_handle()
        page.wait_for_timeout(1500)  # until what is built once is built
        devtools = page.context.new_cdp_session(page)
        devtools.send("Performance.enable")
        looks: list[str] = []
        page.on(
            "response",
            lambda response: looks.append(response.url) if response.url.endswith("/nodes") else None,
        )
        before = main_thread_s(devtools)
        await_looks(page, looks, 4)
        taken_ms = (main_thread_s(devtools) - before) * 1000 / len(looks)
        assert first is not None
        assert first.evaluate("row => row.isConnected")  # it was updated, not built again
        assert taken_ms < 50, f"{taken_ms:.1f} ms for a look"
    finally:
        stage.kill()


def main_thread_s(devtools: Any) -> float:
    """Seconds that scripts, styles and layout have taken so far."""
    metrics = {one["name"]: one["value"] for one in devtools.send("Performance.getMetrics")["metrics"]}
    return float(sum(metrics[f"{kind}Duration"] for kind in ("Script", "Layout", "RecalcStyle")))


def await_looks(page: Page, looks: list[str], count: int) -> None:
    while len(looks) < count:
        page.wait_for_event("response")
