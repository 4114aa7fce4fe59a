"""Nodes: the machines of the cluster, and what operators have decided about each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class AdminState(Enum):
    """What an operator wants of a node; health never changes it.

    READY: takes part. DRAIN: no new clients, open sessions and sticky clients stay. DISABLED: nothing.
    """

    READY = "ready"
    DRAIN = "drain"
    DISABLED = "disabled"


@dataclass(slots=True, eq=False)
class Node:
    """One machine, shared by the endpoints of all services.

    keeps: in DRAIN, clients that belong to it may stay.
    """

    name: str
    state: AdminState = AdminState.READY
    keeps: bool = True
