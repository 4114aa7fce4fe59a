"""What operators send: the bodies of requests."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from trackproxy.units import Count, Name, NodeAddress, Pause, Weight

_NUMBER = {"type": "string", "pattern": "^-?[0-9]{1,15}$"}  # as variables of the environment have them
_WEIGHT = {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 256}, _NUMBER, {"type": "null"}]}
_COUNT = {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 1_000_000}, _NUMBER, {"type": "null"}]}
_PAUSE = {
    "anyOf": [
        {"type": "number", "minimum": 0, "maximum": 604_800},
        {"type": "string", "pattern": "^[0-9.hms]+$", "examples": ["30s", "1m30s"]},
    ]
}
_SETTINGS = """\
[nodes]
node1 = { address = "172.16.0.1" }
[services.web]
protocol = "http"
listen = [":80"]
"""

OrderedWeight = Annotated[Weight | None, WithJsonSchema(_WEIGHT)]
OrderedCount = Annotated[Count | None, WithJsonSchema(_COUNT)]


class Nothing(BaseModel):
    """The body of a request that needs none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DrainOrder(Nothing):
    """How a node is to be drained. timeout: seconds until what is left is ended."""

    timeout: Annotated[Pause, WithJsonSchema(_PAUSE)] = 30.0
    sticky: Literal["keep", "move"] = "keep"


class ValuesOrder(Nothing):
    """What is to hold for a node; what is left out stays as it is, null is as configured."""

    weight: OrderedWeight = None
    max_connections: OrderedCount = None


class NodeOrder(Nothing):
    """A node to be added. services: what it changes there, as the settings' file has it."""

    name: Annotated[Name, Field(json_schema_extra={"pattern": "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"})]
    address: Annotated[NodeAddress, WithJsonSchema({"type": "string", "examples": ["10.0.0.7:80"]})]
    weight: OrderedWeight = None
    max_connections: OrderedCount = None
    services: dict[str, dict[str, Any]] | None = None


class TextOrder(Nothing):
    """A settings file in JSON."""

    text: Annotated[str, Field(examples=[_SETTINGS])]
