"""The pace of a node connection: who is held while the other side takes no more, and until when."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, cast

from trackproxy.clock import NEVER

if TYPE_CHECKING:
    from trackproxy.http.edge import Edge
    from trackproxy.http.service import Service


class NodeFlow(asyncio.Protocol, ABC):
    """A node connection as far as its pace goes; what is said on it is up to the subclass.

    edge: the client's side while it serves a request.
    """

    __slots__ = ("_held", "_service", "_stalled", "_unsent", "deadline", "edge", "transport")

    transport: asyncio.Transport

    def __init__(self, service: Service) -> None:
        self._service = service
        self.edge: Edge | None = None
        self.deadline = NEVER
        self._held = False  # reading is paused
        self._stalled = False  # the node takes no more for now
        self._unsent = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._service.sweep.add(self)
        self._service.upstreams += 1

    def _leave(self) -> None:
        """The connection is no longer ours."""
        self._service.sweep.discard(self)
        self._service.upstreams -= 1

    @abstractmethod
    def _await_answer(self) -> None:
        """Set the deadline for what the node owes now."""

    @abstractmethod
    def expire(self) -> None:
        """The deadline has passed."""

    # --- the client's pace ---

    def hold(self) -> None:
        """The client takes no more for now: read no more, and do not blame the node for the silence."""
        if not self.transport.is_closing():
            self._held = True
            self.transport.pause_reading()
            self.deadline = NEVER

    def release(self) -> None:
        if self._held and not self.transport.is_closing():
            self._held = False
            self.transport.resume_reading()
            if self._stalled:
                self._await_node()
            else:
                self._await_answer()

    # --- the node's pace ---

    def pause_writing(self) -> None:
        self._stalled = True
        self._await_node()
        if self.edge is not None:
            self.edge.hold()

    def resume_writing(self) -> None:
        self._stalled = False
        if self.edge is not None:
            self._await_answer()
            self.edge.release()

    def _await_node(self) -> None:
        self._unsent = self.transport.get_write_buffer_size()
        self.deadline = self._service.sweep.now + self._service.timeouts.write

    def _node_reads(self) -> bool:
        """Whether the node has taken anything since it was looked at; if so, it gets its time again."""
        if self.transport.get_write_buffer_size() >= self._unsent:
            return False
        self._await_node()
        return True
