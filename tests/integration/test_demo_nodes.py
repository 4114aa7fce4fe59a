"""The demo's nodes answer the documented forms as a real node would."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import TestClient
from aiohttp.web import Application, Request
from pytest_aiohttp.plugin import AiohttpClient

from trackproxy.demo import PIXEL, Node


@pytest.fixture
async def client(aiohttp_client: AiohttpClient) -> TestClient[Request, Application]:
    return await aiohttp_client(Node("node2").application())


async def test_an_open_is_a_pixel_that_is_never_cached(client: TestClient[Request, Application]) -> None:
    response = await client.get("/db/7/42/1.gif")
    assert await response.read() == PIXEL
    assert len(PIXEL) == 43
    assert response.headers["Cache-Control"] == "no-cache, no-store, must-revalidate, max-age=0"
    assert response.headers["X-Demo-Node"] == "node2"


async def test_a_click_leads_on_to_a_page_that_is_there(client: TestClient[Request, Application]) -> None:
    response = await client.get("/t/7/42/3/1/", allow_redirects=False)
    assert response.status == 302
    assert (await client.get(response.headers["Location"])).status == 200


async def test_one_click_unsubscribes_without_redirect_or_cookie(
    client: TestClient[Request, Application],
) -> None:
    response = await client.post("/u/7/42/", data={"List-Unsubscribe": "One-Click"}, allow_redirects=False)
    assert response.status == 200
    assert "Set-Cookie" not in response.headers


async def test_a_get_alone_unsubscribes_nobody(client: TestClient[Request, Application]) -> None:
    assert "<form" in await (await client.get("/u/7/42/")).text()


async def test_a_session_is_counted_by_its_cookie(client: TestClient[Request, Application]) -> None:
    texts = [await (await client.get("/")).text() for _ in range(2)]
    assert ["Visit 1 of" in texts[0], "Visit 2 of" in texts[1]] == [True, True]
