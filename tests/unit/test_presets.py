"""Presets: each documented form falls into its class, and only web pages are sticky."""

from __future__ import annotations

import pytest

from trackproxy.http.matching import Matcher, Pattern
from trackproxy.presets import PRESETS

UUID = "5e91dda1-1c16-467d-9bf9-2a21bf22ae21"
OTHER = "1c2f0a6c-9c52-4f0e-8b5a-cd5ec7dfae8d"

EXAMPLES = [
    ("list-manager", "GET", "/db/123/456/1.gif", "open"),
    ("list-manager", "HEAD", "/db/123/456/1.gif?x=1", "open"),
    ("list-manager", "GET", "/t/123/456/7/8/", "click"),
    ("list-manager", "GET", "//t/123/456/7/8/", "click"),
    ("list-manager", "GET", "/u/123/456", "unsubscribe"),
    ("list-manager", "POST", "/u123/456/", "unsubscribe"),
    ("list-manager", "GET", "/unsub.tml?id=1", "unsubscribe"),
    ("list-manager", "GET", "/unsubscribe/1", "unsubscribe"),
    ("list-manager", "GET", "/u?m=1", "unsubscribe"),
    ("list-manager", "GET", "/users/", "web"),
    ("list-manager", "GET", "/upload", "web"),
    ("list-manager", "GET", "/a/u/1", "web"),
    ("list-manager", "GET", "/", "web"),
    ("list-manager", "GET", "/t", "web"),
    ("list-manager", "OPTIONS", "*", "web"),
    ("listmonk", "GET", f"/campaign/{UUID}/{OTHER}/px.png", "open"),
    ("listmonk", "GET", f"/campaign/{UUID}/{OTHER}", "web"),
    ("listmonk", "GET", f"/link/{UUID}/{OTHER}/{UUID}", "click"),
    ("listmonk", "POST", f"/subscription/{UUID}/{OTHER}", "unsubscribe"),
    ("listmonk", "POST", "/subscription/form", "web"),
    ("listmonk", "GET", f"/subscription/optin/{UUID}", "web"),
    ("listmonk", "GET", "/campaigns", "web"),
    ("mautic", "GET", "/email/6408a0e5c0ab1.gif", "open"),
    ("mautic", "GET", "/email/view/6408a0e5c0ab1", "web"),
    ("mautic", "GET", "/r/b0c3a1?ct=YTo1", "click"),
    ("mautic", "GET", "/redirect/b0c3a1", "click"),
    ("mautic", "GET", "/email/unsubscribe/6408a0e5c0ab1", "unsubscribe"),
    ("mautic", "GET", "/email/dnc/6408a0e5c0ab1", "unsubscribe"),
    ("mautic", "GET", "/email/resubscribe/6408a0e5c0ab1", "web"),
    ("mautic", "GET", "/mtracking.gif", "web"),
    ("phplist", "GET", "/lists/ut.php?u=2f93856905d26f59&m=29", "open"),
    ("phplist", "GET", "/lists/lt.php?id=fk0ETwdVGlcH", "click"),
    ("phplist", "GET", "/lists/?p=unsubscribe&uid=2f93856905d26f59", "web"),
    ("phplist", "GET", "/lists/admin/", "web"),
    ("sendy", "GET", "/t/8v0c/xyz1", "open"),
    ("sendy", "GET", "/l/xyz1/ab12/8v0c", "click"),
    ("sendy", "GET", "/unsubscribe/abc/def/ghi", "unsubscribe"),
    ("sendy", "GET", "/w/abc/def/ghi", "web"),
    ("sendy", "GET", "/login", "web"),
]


@pytest.mark.parametrize(("preset", "method", "target", "name"), EXAMPLES)
def test_each_form_falls_into_its_class(preset: str, method: str, target: str, name: str) -> None:
    routes = PRESETS[preset]
    matcher = Matcher([Pattern((), route.prefixes, route.regex, route.methods) for route in routes])
    found = matcher.find(method.encode(), f"{method} {target} HTTP/1.1".encode(), b"site")
    assert routes[found].name == name


def test_each_class_of_each_preset_has_an_example() -> None:
    classes = {(preset, route.name) for preset, routes in PRESETS.items() for route in routes}
    assert {(preset, name) for preset, _, _, name in EXAMPLES} == classes


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_ends_with_web_for_the_rest_which_alone_is_sticky(preset: str) -> None:
    *classes, rest = PRESETS[preset]
    assert (rest.name, rest.prefixes, rest.regex, rest.methods) == ("web", (), "", ())
    assert [route.sticky for route in PRESETS[preset]] == [False] * len(classes) + [True]


@pytest.mark.parametrize("preset", PRESETS)
def test_regular_expressions_and_names_are_sound(preset: str) -> None:
    names = [route.name for route in PRESETS[preset]]
    assert len(names) == len(set(names))
    for route in PRESETS[preset]:
        Matcher([Pattern(regex=route.regex)])
