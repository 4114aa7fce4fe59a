"""What the dashboard's page is made of, and with which headers its files come."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from pytest_aiohttp.plugin import AiohttpClient

from trackproxy.admin import dashboard

Client = TestClient[web.Request, web.Application]

STATIC = files("trackproxy.admin") / "static"
MODULES = sorted(entry.name for entry in STATIC.iterdir() if entry.name.endswith(".js"))


@pytest.fixture
async def client(aiohttp_client: AiohttpClient) -> Client:
    application = web.Application()
    application.add_routes(dashboard.routes())
    return await aiohttp_client(application)


@pytest.mark.parametrize(
    ("path", "type_"),
    [
        ("/", "text/html"),
        ("/static/main.js", "text/javascript"),
        ("/static/dashboard.css", "text/css"),
        ("/static/icon.svg", "image/svg+xml"),
        ("/static/vendor/uplot/uPlot.iife.min.js", "text/javascript"),
    ],
)
async def test_a_file_comes_with_its_type_and_the_policy(client: Client, path: str, type_: str) -> None:
    async with client.get(path) as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"] == f"{type_}; charset=utf-8"
        policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
        assert policy == {
            "default-src": "'none'",
            "script-src": "'self'",
            "style-src": "'self'",
            "img-src": "'self' data:",
            "connect-src": "'self'",
            "frame-ancestors": "'none'",
            "base-uri": "'none'",
            "form-action": "'none'",
            "require-trusted-types-for": "'script'",
            "trusted-types": "'none'",
        }
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"


async def test_a_file_that_has_not_changed_is_not_sent_again(client: Client) -> None:
    async with client.get("/static/main.js") as answer:
        tag = answer.headers["ETag"]
        assert answer.headers["Cache-Control"] == "no-cache"
    async with client.get("/static/main.js", headers={"If-None-Match": f'"other", {tag}'}) as answer:
        assert (answer.status, await answer.read(), answer.headers["ETag"]) == (304, b"", tag)
    async with client.get("/static/main.js", headers={"If-None-Match": '"other"'}) as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    "path", ["/static/", "/static/..%2Fapi.py", "/static/%2e%2e/api.py", "/static/vendor/uplot/LICENSE"]
)
async def test_nothing_else_is_served(client: Client, path: str) -> None:
    async with client.get(path) as answer:
        assert answer.status == 404


def test_the_page_holds_no_script_no_style_and_no_address_of_another_host() -> None:
    page = (STATIC / "index.html").read_text()
    assert re.findall(r"<style|<script(?![^>]*\ssrc=)|\sstyle=|\son[a-z]+=", page) == []
    assert re.findall(r"""(?:src|href)=["'](?:[a-z]+:|/)""", page) == []


@pytest.mark.parametrize("name", MODULES)
def test_a_module_never_makes_markup_of_text(name: str) -> None:
    text = (STATIC / name).read_text()
    assert (
        re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|DOMParser", text) == []
    )


async def test_every_module_that_one_imports_is_served(client: Client) -> None:
    for name in MODULES:
        for wanted in re.findall(r'from "\./([^"]+)"', (STATIC / name).read_text()):
            async with client.get(f"/static/{wanted}") as answer:
                assert answer.status == 200, f"{name} imports {wanted}"
