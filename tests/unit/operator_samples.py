"""What a trackproxy tells of itself, as samples for what shows it."""

from __future__ import annotations

from typing import Any

KINDS = ("requests", "connect_failures", "lost", "silent", "malformed", "status_5xx")
RECENT = {
    "window_s": 5.0,
    "rate": 12.5,
    "errors": 0.1,
    "p50_ms": 1.44,
    "p99_ms": 1234.0,
    "bytes_up": 0.0,
    "bytes_down": 0.0,
}


def endpoint(**changes: Any) -> dict[str, Any]:
    """A node as one service sees it."""
    plain = {
        "address": "10.0.0.1:80",
        "health": "up",
        "ejected": False,
        "weight": 1,
        "priority": 0,
        "probe": {"passed": True, "reason": "200 in 1 ms", "took_ms": 1.2},
        "gauges": {"active": 0, "tunnels": 0, "idle": 0},
        "totals": dict.fromkeys(KINDS, 0),
        "recent": None,
    }
    return plain | changes


def node(name: str = "node1", state: str = "ready", **services: dict[str, Any]) -> dict[str, Any]:
    """A node with these endpoints, by service; one in "web" if there are none."""
    return {
        "name": name,
        "state": state,
        "drain": None,
        "left": {"requests": 0, "tunnels": 0, "sessions": 0, "idle": 0},
        "sources": {},
        "services": services or {"web": endpoint()},
    }


def service(name: str = "web", **changes: Any) -> dict[str, Any]:
    """A service."""
    plain = {
        "name": name,
        "protocol": "http",
        "listen": ["127.0.0.1:8080"],
        "balance": "round_robin",
        "status": "up",
        "nodes": {"total": 3, "eligible": 2, "up": 2},
        "gauges": {"active": 3, "tunnels": 0, "idle": 1},
        "totals": dict.fromkeys(KINDS, 0) | {"requests": 7, "lost": 2},
        "recent": RECENT,
        "panic": False,
        "routes": [],
        "groups": [name],
    }
    return plain | changes


def status(**changes: Any) -> dict[str, Any]:
    """A program."""
    worker = {
        "number": 1,
        "pid": 11,
        "generation": 2,
        "connections": 5,
        "waiting": 0,
        "accepted": 77,
        "lag_ms": None,
    }
    plain = {
        "version": "1.2.3",
        "pid": 10,
        "started_at": 0.0,
        "uptime_s": 3725.0,
        "welcoming": True,
        "generation": 2,
        "config": "/etc/t.toml",
        "state_dir": "/var/lib/t",
        "reload": None,
        "workers": [worker, worker | {"number": 2, "pid": None, "connections": 2, "lag_ms": 0.44}],
        "journal": None,
    }
    return plain | changes


def event(number: int, kind: str = "health", level: str = "info", **fields: Any) -> dict[str, Any]:
    """An event; its text says its number."""
    return {
        "id": number,
        "at": float(number),
        "level": level,
        "kind": kind,
        "text": f"event {number}",
        **fields,
    }
