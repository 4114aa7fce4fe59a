"""A route: one traffic class in one process, and how its requests are treated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trackproxy.board import TRAFFIC_ROW, Answers, no_row
from trackproxy.http.second_tries import SecondTries

if TYPE_CHECKING:
    from trackproxy.http.group import Group
    from trackproxy.http.sticking import Sticking
    from trackproxy.http_sections import HttpService
    from trackproxy.route_sections import Route as RouteConfig


class Route:
    """What requests of one class have in common.

    config: None for what no route of the settings takes. group: its endpoints. settings: of the service, as
    this route sees it. sticking: how clients stay at one node, None if they do not. cells: its row on the
    board. answers: the part of it for answers.
    """

    def __init__(
        self, config: RouteConfig | None, group: Group, settings: HttpService, sticking: Sticking | None
    ) -> None:
        self.name = config.name if config else ""
        self.config = config
        self.sticking = sticking
        self.group = group
        self.settings = settings
        self.second_tries = SecondTries(group, settings)
        self.count_in(no_row(TRAFFIC_ROW))
        # Read for each request; an attribute of the settings takes several times as long to find.
        self.take = group.balancer.take
        self.channels = group.channels
        self.retry_deadline_s = settings.retry.deadline
        self.response_head_s: float = settings.timeouts.response_head
        self.response_s: float = settings.timeouts.response

    def count_in(self, cells: memoryview) -> None:
        """Count in CELLS from now on."""
        self.cells = cells
        self.answers = Answers(cells)
