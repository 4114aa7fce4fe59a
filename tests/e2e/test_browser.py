"""Web sessions as a browser has them: a real Chromium before the demo, and before nodes that are killed."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.chaos.processes import fixed_ports
from tests.e2e.chromium import Browser, Page, Seen, chromium, driving, needs_chromium
from tests.e2e.test_cli import DEADLINE_S, ENVIRONMENT, ROOT, WEB_ONLY, arguments
from tests.e2e.test_commands import await_fact, refused
from tests.e2e.test_sticky_sessions import COOKIE, DemoNode, NodeProcess, staged
from tests.unit.test_certificates import put
from trackproxy.commands.client import Client

pytestmark = needs_chromium

NODES = ("node1", "node2", "node3")
WHO_OPENS = "fetch('/db/7/42/1.gif').then(answer => answer.headers.get('x-demo-node'))"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the Chromium of these tests is driven."""
    with chromium(tmp_path_factory.mktemp("chromium")) as place:
        yield place


@pytest.fixture
async def browser(place: str) -> AsyncIterator[Browser]:
    async with driving(place) as browser:
        yield browser


class Demo:
    """A demo that serves at URL. client: gives it commands."""

    def __init__(self, port: int, banner: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        said = re.search(r"nodes --socket (\S+)", banner)
        assert said
        self.client = Client(Path(said[1]))


@pytest.fixture(scope="module")
def lasting_demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    [port] = fixed_ports(1)
    out = tmp_path_factory.mktemp("demo") / "out"
    with out.open("wb") as file:
        words = arguments("demo", *WEB_ONLY, "--listen", f"127.0.0.1:{port}")
        process = subprocess.Popen(words, cwd=ROOT, env=ENVIRONMENT, stdout=file, stderr=file)
    try:
        await_fact(lambda: "Ctrl-C" in out.read_text() and not refused(port))
        yield Demo(port, out.read_text())
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 0
    assert "Traceback" not in out.read_text()


@pytest.fixture
def demo(lasting_demo: Demo) -> Demo:
    """A demo with all of its nodes."""
    for node in NODES:
        lasting_demo.client.ready(node)
    return lasting_demo


def counted(seen: Seen) -> tuple[int, str]:
    """What a page of the demo says: the number of the visit, and the node."""
    assert seen.status == 200, seen
    said = re.fullmatch(r"Visit (\d+) of this session to (node\d)", seen.text.strip())
    assert said, seen.text
    return int(said[1]), said[2]


async def visits(page: Page, url: str, count: int) -> tuple[list[int], set[str]]:
    """Open a page so many times: the numbers that it shows, and the nodes."""
    seen = [counted(await page.open(url)) for _ in range(count)]
    return [number for number, _ in seen], {node for _, node in seen}


async def moved(page: Page, url: str, home: str) -> str:
    """Open a page until the session has left HOME, which happens within a few beats; its new node."""
    for _ in range(100):
        number, node = counted(await page.open(url))
        if node != home:
            assert number == 1  # the new node knows nothing of it
            return node
    raise AssertionError(f"the session is still at {home}")


# --- the demo ---


async def test_a_session_is_counted_upwards_on_one_node_while_opens_go_round(
    browser: Browser, demo: Demo
) -> None:
    page = await browser.page()
    first, home = counted(await page.open(demo.url))
    openers = set()
    for number in range(2, 6):
        openers.add(await page.run(WHO_OPENS))
        assert counted(await page.open(demo.url)) == (number, home)
    assert first == 1
    assert openers == {*NODES}


async def test_sessions_of_several_browsers_are_spread_and_do_not_mix(browser: Browser, demo: Demo) -> None:
    pages = [await browser.page() for _ in NODES]
    firsts = [counted(await page.open(demo.url)) for page in pages]
    assert len({node for _, node in firsts}) > 1
    for page, (_, home) in zip(pages, firsts, strict=True):
        assert await visits(page, demo.url, 2) == ([2, 3], {home})


async def test_a_session_does_not_notice_the_drain_of_another_node(browser: Browser, demo: Demo) -> None:
    page = await browser.page()
    _, home = counted(await page.open(demo.url))
    other = next(node for node in NODES if node != home)
    demo.client.drain(other, "1s", "move")
    assert await visits(page, demo.url, 5) == ([2, 3, 4, 5, 6], {home})


@pytest.mark.parametrize("how", ["drain", "disable"])
async def test_a_session_whose_node_is_taken_out_begins_anew_elsewhere_and_stays_there(
    browser: Browser, demo: Demo, how: str
) -> None:
    page = await browser.page()
    _, home = counted(await page.open(demo.url))
    if how == "drain":
        demo.client.drain(home, "30s", "move")
    else:
        demo.client.disable(home)
    new = await moved(page, demo.url, home)
    assert await visits(page, demo.url, 3) == ([2, 3, 4], {new})
    demo.client.ready(home)
    assert await visits(page, demo.url, 3) == ([5, 6, 7], {new})


async def test_an_unsubscribe_form_is_sent_and_sets_no_cookie(browser: Browser, demo: Demo) -> None:
    page = await browser.page()
    assert "Leave this list?" in (await page.open(f"{demo.url}/u/7/42/")).text
    seen = await page.click("button")
    assert (seen.status, seen.text.strip(), seen.cookies) == (200, "Member 42 is unsubscribed.", [])


async def test_a_click_arrives_at_its_target(browser: Browser, demo: Demo) -> None:
    page = await browser.page()
    seen = await page.open(f"{demo.url}/t/7/42/3/1/")
    assert (seen.status, seen.text.strip()) == (200, "The target of link 3")


async def test_the_sticky_cookie_is_for_no_script_and_no_other_site(browser: Browser, demo: Demo) -> None:
    page = await browser.page()
    seen = await page.open(demo.url)
    assert sorted(line.partition("=")[0] for line in seen.cookies) == ["TPNODE", "session"]
    assert await page.run("document.cookie") == ""
    cookie = (await page.cookies())["TPNODE"]
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["secure"]) == (True, "Lax", False)
    assert (cookie["session"], cookie["path"], cookie["domain"]) == (True, "/", "127.0.0.1")


# --- nodes of our own ---


async def test_a_session_whose_node_is_killed_sees_no_error_and_stays_where_it_begins_anew(
    browser: Browser, tmp_path: Path
) -> None:
    async with staged(tmp_path) as stage:
        nodes = {node.name: node for node in await stage.join(NodeProcess, "node1", "node2")}
        await stage.start(service=COOKIE)
        url, page = f"http://127.0.0.1:{stage.port}", await browser.page()
        _, home = counted(await page.open(url))
        assert await visits(page, url, 2) == ([2, 3], {home})
        await nodes[home].stop()
        numbers, [new] = await visits(page, url, 3)
        assert (numbers, new != home) == ([1, 2, 3], True)
        await stage.health(home, "down")
        assert await visits(page, url, 2) == ([4, 5], {new})
        await nodes[home].start()
        await stage.health(home, "up")
        assert await visits(page, url, 4) == ([6, 7, 8, 9], {new})


async def test_over_https_the_sticky_cookie_is_for_https_alone(browser: Browser, tmp_path: Path) -> None:
    certificate = put(tmp_path / "self-made.pem", "localhost")
    [port] = fixed_ports(1)
    tls = f'tls = {{ listen = ["127.0.0.1:{port}"], certificates = [{{ certificate = "{certificate}" }}] }}'
    async with staged(tmp_path) as stage:
        await stage.join(DemoNode, *NODES)
        await stage.start(service=f"{COOKIE}\n{tls}")
        url, page = f"https://127.0.0.1:{port}", await browser.page()
        numbers, nodes = await visits(page, url, 4)
        assert (numbers, len(nodes)) == ([1, 2, 3, 4], 1)
        cookie = (await page.cookies())["TPNODE"]
        assert (cookie["secure"], cookie["httpOnly"], cookie["sameSite"]) == (True, True, "Lax")
