"""Settings of the admin endpoint: where operators and their tools reach it, and who they are."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from trackproxy.explain import KeyPath
from trackproxy.sections import Section, host_name
from trackproxy.units import NOWHERE, Address, AdminAddress, Name, TokenHash

Role = Literal["read", "write"]


class Token(Section):
    """Somebody who may ask, and perhaps change something."""

    name: Name = Field(description="Who it is, for the log of changes.")
    role: Role = Field(description='"read", or "write" for changes too.')
    hash: TokenHash = Field(description='What "trackproxy token" shows; the secret itself is kept nowhere.')


class Admin(Section):
    """The admin endpoint."""

    listen: AdminAddress = Field(
        default="127.0.0.1:8400",  # type: ignore[assignment]  # read as what a file says
        description='Where it listens; "" is nowhere. The commands use a socket of their own.',
    )
    hosts: list[Annotated[str, AfterValidator(host_name)]] = Field(
        default=[], description="Names by which it may be reached, besides its address and localhost."
    )
    tokens: list[Token] = Field(
        default=[], description="Who may ask; needed unless it listens on loopback or a unix socket."
    )

    @property
    def is_wanted(self) -> bool:
        """Whether it listens anywhere."""
        return self.listen != NOWHERE

    @property
    def is_chosen(self) -> bool:
        """Whether somebody has said where it listens, so that it must be there."""
        return "listen" in self.model_fields_set

    def contradictions(self) -> Iterator[tuple[KeyPath, str]]:
        """Yield keys whose values are right alone and wrong together, and why."""
        if self.is_wanted and not self.tokens and not _is_local(self.listen):
            yield (
                ("admin", "tokens"),
                f'"{self.listen}" can be reached from elsewhere, so somebody has to be named who may ask;'
                ' "trackproxy token NAME" makes a token, or listen on 127.0.0.1',
            )
        names = [token.name for token in self.tokens]
        for index, name in enumerate(names):
            if name in names[:index]:
                yield ("admin", "tokens", index, "name"), f'"{name}" is somebody else already'


def _is_local(address: Address) -> bool:
    """Whether only this machine reaches ADDRESS."""
    if address.path or address.host == "localhost":
        return True
    try:
        return ipaddress.ip_address(address.host).is_loopback
    except ValueError:
        return False
