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
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from trackproxy.units import Hidden, Notation, quoted

KeyPath = tuple[str | int, ...]

_EXPECTED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "a table",
    "list_type": 'a list, such as ["…"]',
    "model_attributes_type": "a table",
    "model_type": "a table",
    "string_type": "text in quotes",
    "string_unicode": "text in Unicode",
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
    location = detail["loc"][:-1] if detail["loc"][-1] == "[key]" else detail["loc"]
    path = _untagged(model, location)
    if detail["type"] == "extra_forbidden":
        return unknown_key(path, keys_at(model, location[:-1]))
    if detail["type"] in ("union_tag_not_found", "union_tag_invalid"):
        path = (*path, str(detail["ctx"]["discriminator"]).strip("'"))
    fields = _fields_on(model, location)
    if detail["type"] == "list_type" and _sections(fields[-1].annotation)[0]:
        return Problem(path, f"must be a list of tables, each under [[{dotted(path)}]]")
    return Problem(path, _sentence(detail, hidden=_hides(fields)))


def _untagged(model: type[BaseModel], location: KeyPath) -> KeyPath:
    """Return a path without what pydantic puts into it: which of several kinds of section was meant."""
    return tuple(key for key, _, tag in _walk(model, location) if not tag)


def _sentence(detail: ErrorDetails, *, hidden: bool) -> str:
    """Return what is wrong; HIDDEN: without the value, which may be a secret."""
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind in ("missing", "union_tag_not_found"):
        return "is required"
    if kind == "too_short":
        return "needs at least one entry"
    if kind == "literal_error":
        expected = str(context["expected"]).replace("'", '"')
        return f"must be {expected}, not {quoted(detail['input'])}"
    if kind == "union_tag_invalid":
        *others, last = re.findall(r"'(\w+)'", str(context["expected_tags"]))
        expected = ", ".join(f'"{tag}"' for tag in others)
        return f'must be {expected} or "{last}", not {quoted(context["tag"])}'
    return f"must be {_EXPECTED[kind]}, not {_shown(detail['input'], hidden=hidden)}"


def _shown(value: object, *, hidden: bool) -> str:
    """Return a value of the wrong kind as a message shows it, or only its kind if that says more."""
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    if value is None:
        return "null"
    if hidden and not isinstance(value, bool):
        return "text" if isinstance(value, str) else "a number"
    return quoted(value)


def _hides(fields: list[FieldInfo]) -> bool:
    """Return whether the value that these fields lead to is a secret, or has a place for one."""
    return any(map(_is_hidden, fields)) or (
        bool(fields) and _holds_hidden(_sections(fields[-1].annotation)[0])
    )


def _fields_on(model: type[BaseModel], location: KeyPath) -> list[FieldInfo]:
    """Return the fields that a location leads through, the last one holds what is there."""
    section: type[BaseModel] | None = model
    fields = []
    for key, inner, _ in _walk(model, location):
        if section is not None and key in section.model_fields:
            fields.append(section.model_fields[str(key)])
        section = inner
    return fields


def _holds_hidden(kinds: list[type[BaseModel]]) -> bool:
    fields = [field for kind in kinds for field in kind.model_fields.values()]
    return any(_is_hidden(field) or _holds_hidden(_sections(field.annotation)[0]) for field in fields)


def _is_hidden(field: FieldInfo) -> bool:
    return any(isinstance(mark, Hidden) for mark in field.metadata)


def unknown_key(path: KeyPath, known: Iterable[str], what: str = "key") -> Problem:
    """Return the problem of a name that nothing answers to, with the nearest known one."""
    known = list(known)
    near = difflib.get_close_matches(str(path[-1]).replace("-", "_"), known, n=1)
    hint = f'did you mean "{near[0]}"?' if near else f"known here: {', '.join(known)}"
    return Problem(path, f"unknown {what}, {hint}")


def keys_at(model: type[BaseModel], location: KeyPath) -> list[str]:
    """Return the keys that the section at a location knows."""
    section = model
    for _, inner, _ in _walk(model, location):
        section = inner or section
    return list(section.model_fields)


def _walk(
    model: type[BaseModel], location: KeyPath
) -> Iterator[tuple[str | int, type[BaseModel] | None, bool]]:
    """Yield each key of a location, the section that it leads into, and whether it only says which kind."""
    section: type[BaseModel] | None = model
    kinds: list[type[BaseModel]] = []
    several = ""
    for key in location:
        if several:  # which of them
            several = ""
            section = kinds[0] if len(kinds) == 1 else None
            yield key, section, False
        elif section is None and kinds:
            section = next((kind for kind in kinds if key in _tags(kind)), None)
            kinds = []
            yield key, section, True
        elif section is not None and key in section.model_fields:
            kinds, several = _sections(section.model_fields[str(key)].annotation)
            section = kinds[0] if len(kinds) == 1 and not several else None
            yield key, section, False
        else:
            section = None
            yield key, None, False


def _tags(kind: type[BaseModel]) -> tuple[Any, ...]:
    """Return the values by which one kind of section is known among several."""
    return get_args(kind.model_fields["protocol"].annotation)


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
    inner = {key: _sections(field.annotation) for key, field in model.model_fields.items()}
    rows = [
        (prefix + key, _default(field), field.description or "")
        for key, field in model.model_fields.items()
        if not inner[key][0] or field.default is None  # a section that may be left out says what holds then
    ]
    yield (model.__doc__ or "").partition("\n")[0], rows
    for key, (sections, several) in inner.items():
        for section in sections:
            yield from _groups(section, f"{prefix}{key}{several}.")


def _sections(annotation: Any) -> tuple[list[type[BaseModel]], str]:
    """Return the kinds of section that a field may hold, none for a plain value; and how one of several is
    told from the others: ".<name>", "[]", or nothing if there is only one."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is dict:
        return _sections(arguments[1])[0], ".<name>"
    if origin is list:
        return _sections(arguments[0])[0], "[]"
    if origin is Annotated:
        return _sections(arguments[0])
    parts = arguments if origin in (Union, UnionType) else (annotation,)
    return [part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)], ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default is None:
        return "unset"
    notation = next((mark for mark in field.metadata if isinstance(mark, Notation)), None)
    if notation:
        return notation.show(field.default)
    return json.dumps(field.default) if isinstance(field.default, list) else quoted(field.default)
