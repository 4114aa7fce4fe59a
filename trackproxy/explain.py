"""What an operator reads about settings: the list of all of them, and one sentence for each problem.

Both are made from the models, so nothing about a setting is said twice. Pydantic's own words never reach the
operator: `problems_of` is the one place that knows its kinds of errors.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from trackproxy.units import Notation, quoted

KeyPath = tuple[str | int, ...]

_EXPECTED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "a table",
    "list_type": 'a list, such as ["…"]',
    "model_attributes_type": "a table",
    "model_type": "a table",
    "string_type": "text in quotes",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, and the setting that it is wrong with."""

    path: KeyPath
    text: str

    def __str__(self) -> str:
        return f"{dotted(self.path)}: {self.text}"


def dotted(path: KeyPath) -> str:
    """Return a path as TOML writes it: services.web.listen[0], nodes."node1.example"."""
    text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            text += "." + (key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else quoted(key))
    return text.removeprefix(".")


def problems_of(error: ValidationError, model: type[BaseModel]) -> list[Problem]:
    """Return every problem of a validation of `model`, in our own words."""
    return [_problem(detail, model) for detail in error.errors()]


def _problem(detail: ErrorDetails, model: type[BaseModel]) -> Problem:
    path = detail["loc"][:-1] if detail["loc"][-1] == "[key]" else detail["loc"]
    if detail["type"] == "extra_forbidden":
        return unknown_key(path, keys_at(model, path[:-1]))
    return Problem(path, _sentence(detail))


def _sentence(detail: ErrorDetails) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "missing":
        return "is required"
    if kind == "too_short":
        return "needs at least one entry"
    if kind == "literal_error":
        expected = str(context["expected"]).replace("'", '"')
        return f"must be {expected}, not {quoted(detail['input'])}"
    return f"must be {_EXPECTED[kind]}, not {quoted(detail['input'])}"


def unknown_key(path: KeyPath, known: Iterable[str], what: str = "key") -> Problem:
    """Return the problem of a name that nothing answers to, with the nearest known one."""
    known = list(known)
    near = difflib.get_close_matches(str(path[-1]).replace("-", "_"), known, n=1)
    hint = f'did you mean "{near[0]}"?' if near else f"known here: {', '.join(known)}"
    return Problem(path, f"unknown {what}, {hint}")


def keys_at(model: type[BaseModel], path: KeyPath) -> list[str]:
    """Return the keys that the section at a path knows."""
    section, named = model, False
    for key in path:
        if named:
            named = False
            continue
        section, named = _section(section.model_fields[str(key)].annotation) or (section, False)
    return list(section.model_fields)


def explain(model: type[BaseModel]) -> Iterator[str]:
    """Yield the lines of a table of every setting: path, default and meaning, one group for each section."""
    groups = list(_groups(model, ""))
    rows = [row for _, group in groups for row in group]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for title, group in groups:
        yield f"# {title}"
        for path, default, meaning in group:
            yield f"{path:<{widths[0]}}  {default:<{widths[1]}}  {meaning}"
        yield ""


def _groups(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """Yield the title and the rows of a section, then those of the sections inside it."""
    inner = {key: _section(field.annotation) for key, field in model.model_fields.items()}
    rows = [
        (prefix + key, _default(field), field.description or "")
        for key, field in model.model_fields.items()
        if inner[key] is None
    ]
    yield (model.__doc__ or "").partition("\n")[0], rows
    for key, section in inner.items():
        if section is not None:
            yield from _groups(section[0], f"{prefix}{key}." + ("<name>." if section[1] else ""))


def _section(annotation: Any) -> tuple[type[BaseModel], bool] | None:
    """Return the model that a field holds, and whether it holds one for each name; None for a plain value."""
    named = get_origin(annotation) is dict
    kind = get_args(annotation)[1] if named else annotation
    return (kind, named) if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default is None:
        return "unset"
    notation = next((mark for mark in field.metadata if isinstance(mark, Notation)), None)
    if notation:
        return notation.show(field.default)
    return json.dumps(field.default) if isinstance(field.default, list) else quoted(field.default)
