"""What operators change at run time: states, weights and limits of nodes, and nodes that were added.

Each change stands beside the value that the configuration had then: once the file says something else there,
the file wins and the change is dropped. `apply` lays what is left over the settings.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import ValidationError

from trackproxy.explain import problems_of
from trackproxy.pool.nodes import AdminState
from trackproxy.sections import EndpointSettings, NodeSettings, Section
from trackproxy.session_sections import SessionEndpointSettings, SessionService
from trackproxy.settings import AnyService, Settings, contradictions, endpoints_of

if TYPE_CHECKING:
    from trackproxy.control.drain import Sticky

VALUES = ("weight", "max_connections")

S = TypeVar("S", bound=Section)
Id = tuple[str, ...]  # a table, and the primary key in it


# --- what is kept ---


@dataclass(frozen=True, slots=True)
class Override:
    """A value that an operator has set at run time.

    scope: see `node_scope` and `endpoint_scope`. key: "weight", "max_connections", of a node also "state".
    configured: what the configuration said when it was set. changed_at: in seconds of the wall clock.
    """

    scope: str
    key: str
    value: Any
    configured: Any
    changed_at: float
    changed_by: str

    @property
    def id(self) -> Id:
        return "overrides", self.scope, self.key

    def columns(self) -> tuple[object, ...]:
        value, configured = json.dumps(self.value), json.dumps(self.configured)
        return self.scope, self.key, value, configured, self.changed_at, self.changed_by

    @classmethod
    def of(cls, row: tuple[Any, ...]) -> Override:
        scope, key, value, configured, at, who = row
        return cls(str(scope), str(key), json.loads(value), json.loads(configured), float(at), str(who))

    def __str__(self) -> str:
        return f"{self.scope}: {self.key} {json.dumps(self.value)}, set at run time by {self.changed_by},"


@dataclass(frozen=True, slots=True)
class Added:
    """A node that an operator has added at run time.

    settings: what its table in the file would hold beside the address; and under "services", by their names,
    what it would hold in theirs. Services that name their nodes take it only if they are named there.
    """

    name: str
    address: str
    settings: Mapping[str, Any]
    added_at: float
    added_by: str

    @property
    def id(self) -> Id:
        return "nodes", self.name

    def columns(self) -> tuple[object, ...]:
        return self.name, self.address, json.dumps(dict(self.settings)), self.added_at, self.added_by

    @classmethod
    def of(cls, row: tuple[Any, ...]) -> Added:
        name, address, settings, at, who = row
        return cls(str(name), str(address), dict(json.loads(settings)), float(at), str(who))

    def __str__(self) -> str:
        return f"node/{self.name}: added at run time by {self.added_by},"


Row = Override | Added


@dataclass(frozen=True, slots=True)
class Resolved:
    """The value that holds, and whose it is; since when and by whom if it was set at run time."""

    value: Any
    source: Literal["configuration", "run time"]
    changed_at: float | None = None
    changed_by: str = ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an operator wants of a node. left_s, sticky: of a drain, see `control.drain`."""

    state: AdminState
    left_s: float = 0.0
    sticky: Sticky = "keep"

    def value(self, now: float) -> Any:
        """Return it as it is kept under "state"; NOW by the wall clock, since it has to outlive a boot."""
        if self.state is AdminState.DRAIN:
            return {"state": self.state.value, "deadline": now + self.left_s, "sticky": self.sticky}
        return self.state.value


@dataclass(frozen=True, slots=True)
class Applied:
    """Settings with what was changed at run time.

    outdated: what the configuration has overtaken; give it to `forget` once these settings are served.
    left_out: what is of no use with these settings, but may be with others.
    lines: why, a sentence for each.
    """

    settings: Settings
    outdated: list[Row]
    left_out: list[Row]
    lines: list[str]


def node_scope(node: str) -> str:
    """Return the scope of what holds for a node in all services that say nothing else about it."""
    return f"node/{node}"


def endpoint_scope(service: str, node: str) -> str:
    """Return the scope of what holds for a node in one service."""
    return f"service/{service}/node/{node}"  # no name holds a slash


# --- rules: pure ---


def resolve(override: Override | None, configured: object) -> Resolved:
    """Return what holds; an override whose value has changed in the file since then does not."""
    if override is None or override.configured != configured:
        return Resolved(configured, "configuration")
    return Resolved(override.value, "run time", override.changed_at, override.changed_by)


def is_said_anyway(override: Override, known: Container[Id]) -> bool:
    """Whether the configuration says so too, and nothing KNOWN changes that for the node in all services."""
    for_node = ("overrides", node_scope(override.scope.rpartition("/")[2]), override.key)
    return override.value == override.configured and (for_node == override.id or for_node not in known)


def configured(settings: Settings, scope: str, key: str) -> Any:
    """Return what SETTINGS say there; raises KeyError if there is no such thing."""
    match scope.split("/"):
        case ["node", node] if key == "state":
            return settings.nodes[node] and AdminState.READY.value
        case ["node", node] if key in VALUES:
            return getattr(settings.nodes[node], key)
        case ["service", service, "node", node] if key in VALUES:
            endpoints = endpoints_of(settings, settings.services[service])
            return getattr({one.node: one for one in endpoints}[node], key)
    raise KeyError(scope)


def states(overrides: Iterable[Override], now: float) -> dict[str, Wanted]:
    """Return what operators want of nodes, those left out of which they want nothing but "ready".

    A drain that was under way goes on until its deadline; if that has passed, the node is disabled.
    """
    found = {}
    for one in overrides:
        with suppress(ValueError, KeyError, TypeError):  # another version's
            if one.key == "state":
                found[one.scope.removeprefix("node/")] = _wanted(one, now)
    return found


def _wanted(one: Override, now: float) -> Wanted:
    if not isinstance(one.value, dict):
        return Wanted(AdminState(one.value))
    deadline = float(one.value["deadline"])
    left_s = min(deadline - now, deadline - one.changed_at)  # no longer than ever, if the clock went back
    if left_s <= 0:
        return Wanted(AdminState.DISABLED)
    return Wanted(AdminState(one.value["state"]), left_s, "move" if one.value["sticky"] == "move" else "keep")


def apply(settings: Settings, overrides: Iterable[Override], nodes: Iterable[Added]) -> Applied:
    """Lay what was changed at run time over SETTINGS, which are valid, and so is what is returned.

    What does not fit any more is left out: no change at run time keeps a configuration from being served.
    """
    applying = _Applying(settings)
    for node in sorted(nodes, key=lambda node: node.added_at):
        applying.add(node)
    for override in sorted(overrides, key=lambda override: -override.changed_at):
        applying.take(override)
    merged = applying.fitting()
    return Applied(merged, applying.outdated, applying.left_out, applying.lines)


@dataclass(slots=True, eq=False)
class _Applying:
    """How far `apply` has come. nodes, values: what has been found to be of use, VALUES the newest first."""

    settings: Settings
    nodes: list[Added] = field(default_factory=list)
    values: list[Override] = field(default_factory=list)
    outdated: list[Row] = field(default_factory=list)
    left_out: list[Row] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def add(self, node: Added) -> None:
        if node.name in self.settings.nodes:
            self._drop(node, "the configuration names that node now")
        elif problem := self._problem([*self.nodes, node], []):
            self._leave_out(node, problem)
        else:
            self.nodes.append(node)

    def take(self, one: Override) -> None:
        if ("nodes", one.scope.rpartition("/")[2]) in {node.id for node in self.left_out}:
            return
        try:
            now = configured(_merged(self.settings, self.nodes, []), one.scope, one.key)
        except KeyError:
            self._drop(one, "the configuration has nothing of the kind now")
            return
        if resolve(one, now).source == "configuration":
            self._drop(one, f"the configuration said {json.dumps(one.configured)}, now {json.dumps(now)}")
        elif one.key in VALUES:
            self._take_value(one)

    def _take_value(self, one: Override) -> None:
        try:
            _merged(self.settings, self.nodes, [one])
        except ValueError as error:
            self._leave_out(one, str(error))
        else:
            self.values.append(one)

    def fitting(self) -> Settings:
        """Return the settings with all that fits together; of what does not, the newest is left out."""
        while problem := self._problem(self.nodes, self.values):
            if not self.values:  # the settings are wrong without us
                break
            culprits = (one for one in self.values if not self._problem(self.nodes, self._without(one)))
            culprit = next(culprits, self.values[0])
            self._leave_out(culprit, problem)
            self.values = self._without(culprit)
        return _merged(self.settings, self.nodes, self.values)

    def _without(self, culprit: Override) -> list[Override]:
        return [one for one in self.values if one is not culprit]

    def _problem(self, nodes: list[Added], values: list[Override]) -> str:
        """Return why these cannot be served together, if so."""
        try:
            return str(next(contradictions(_merged(self.settings, nodes, values)), ""))
        except ValueError as error:
            return str(error)

    def _drop(self, row: Row, reason: str) -> None:
        self.outdated.append(row)
        self.lines.append(f"{row} is dropped: {reason}")

    def _leave_out(self, row: Row, reason: str) -> None:
        self.left_out.append(row)
        self.lines.append(f"{row} is left out: {reason}")


def _merged(settings: Settings, nodes: Iterable[Added], values: Iterable[Override]) -> Settings:
    """Return SETTINGS with all of these; raises ValueError if one is of no use."""
    tables = dict(settings.nodes)
    changes: dict[str, dict[str, Mapping[str, Any]]] = {name: {} for name in settings.services}
    for node in nodes:
        fields = dict(node.settings)
        for service, changed in _table(fields.pop("services", {})).items():
            if service in changes:
                changes[service][node.name] = _table(changed)
        tables[node.name] = _valid(NodeSettings, {**fields, "address": node.address})
    for one in values:
        *_, service, _, name = ["", *one.scope.split("/")]
        if service:
            changes[service][name] = {**changes[service].get(name, {}), one.key: one.value}
        else:
            tables[name] = _valid(NodeSettings, {**dict(tables[name]), one.key: one.value})
    services = {
        name: _changed(service, tables, changes[name]) if changes[name] else service
        for name, service in settings.services.items()
    }
    return settings.model_copy(update={"nodes": tables, "services": services})


def _changed(
    service: AnyService, nodes: Iterable[str], changes: Mapping[str, Mapping[str, Any]]
) -> AnyService:
    """Return SERVICE with CHANGES to nodes; if it names none, it names all NODES from now on."""
    kind, known = _kind(service), _named(service, nodes)
    for name, changed in changes.items():
        known[name] = _valid(kind, {**dict(known.get(name, kind())), **changed})
    return service.model_copy(update={"nodes": known})


def _named(service: AnyService, nodes: Iterable[str]) -> dict[str, EndpointSettings]:
    """Return what SERVICE says of its nodes, which are all NODES if it names none."""
    return {**service.nodes} or {name: _kind(service)() for name in nodes}


def _kind(service: AnyService) -> type[EndpointSettings]:
    return SessionEndpointSettings if isinstance(service, SessionService) else EndpointSettings


def differ_in_weights_alone(before: Settings, after: Settings) -> bool:
    """Whether workers of BEFORE can serve AFTER: they read weights on the board."""
    return _without_weights(before) == _without_weights(after)


def _without_weights(settings: Settings) -> Settings:
    nodes = {name: node.model_copy(update={"weight": 1}) for name, node in settings.nodes.items()}
    services = {}
    for name, service in settings.services.items():
        own = {
            node: one.model_copy(update={"weight": None})
            for node, one in _named(service, settings.nodes).items()
        }
        services[name] = service.model_copy(update={"nodes": own})
    return settings.model_copy(update={"nodes": nodes, "services": services})


def _table(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"services: must hold tables, not {json.dumps(value)}")
    return value


def _valid(kind: type[S], tree: Mapping[str, Any]) -> S:
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise ValueError("; ".join(str(problem) for problem in problems_of(error, kind))) from error
