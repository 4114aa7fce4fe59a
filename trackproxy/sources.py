"""Where the values of settings come from, and where each of them stands.

Three layers, the later wins: one TOML file, `TRACKPROXY_…` environment variables, the command line's flags.
Lines are found without a TOML parser of our own: a piece of the file that parses alone is one statement.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic_settings import BaseSettings, EnvSettingsSource

from trackproxy.errors import ConfigError
from trackproxy.explain import KeyPath

Tree = dict[str, Any]

PREFIX = "TRACKPROXY_"
DELIMITER = "__"  # between the keys of a path


class Environment(EnvSettingsSource):
    """All variables with the prefix of the settings: a misspelt name must not be overlooked."""

    def __init__(self) -> None:
        super().__init__(BaseSettings, env_prefix=PREFIX, env_nested_delimiter=DELIMITER)

    def __call__(self) -> Tree:
        """Return the tree of all values; lists and tables are written as JSON."""
        tree: Tree = {}
        for name, text in sorted(self.env_vars.items()):
            if name.startswith(self.env_prefix.lower()) and text is not None:
                *parents, last = self.keys_of(name)
                table = tree
                for key in parents:
                    table = _table_in(table, key)
                table[last] = _decode(text)
        return tree

    def keys_of(self, name: str) -> list[str]:
        """Return the keys that a variable's name leads through."""
        return name[len(self.env_prefix) :].lower().split(DELIMITER)

    def variable_of(self, path: KeyPath) -> str | None:
        """Return the name of the variable that gave the value at a path, or the table around it."""
        names = (self._name_of(path[:size]) for size in range(len(path), 0, -1))
        return next((name.upper() for name in names if name in self.env_vars), None)

    def variable_inside(self, path: KeyPath) -> str | None:
        """Return the name of a variable that made a table of the value at a path."""
        start = self._name_of((*path, ""))
        return next((name.upper() for name in self.env_vars if name.startswith(start)), None)

    def _name_of(self, path: KeyPath) -> str:
        return (self.env_prefix + DELIMITER.join(map(str, path))).lower()


def _table_in(table: Tree, key: str) -> Tree:
    if not isinstance(table.get(key), dict):
        table[key] = {}
    inner: Tree = table[key]
    return inner


def _decode(text: str) -> Any:
    text = os.fsencode(text).decode(errors="replace")  # bytes that are not UTF-8 would stop pydantic
    if not text.startswith(("[", "{")):
        return text
    try:
        value = json.loads(text)
        json.dumps(
            value, ensure_ascii=False
        ).encode()  # half a character, "\\ud800", would stop pydantic, too
    except ValueError:
        return text
    return value


@dataclass(frozen=True, slots=True)
class TomlFile:
    """A file as read: what it holds, and the line of each key."""

    name: str = ""
    tree: Tree = field(default_factory=dict)
    lines: dict[KeyPath, int] = field(default_factory=dict)

    def line_of(self, path: KeyPath) -> int:
        """Return the line of the key at a path, or of the nearest one around it; 0 if the file has none."""
        sizes = range(len(path), 0, -1)
        return next((self.lines[path[:size]] for size in sizes if path[:size] in self.lines), 0)


def read_toml(path: Path) -> TomlFile:
    """Read a file; raise ConfigError if that cannot be done, or if it is not TOML in UTF-8."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    return parse_toml(str(path), content)


def parse_toml(name: str, content: bytes) -> TomlFile:
    """Return the CONTENT of a file of that NAME; raise ConfigError if it is not TOML in UTF-8."""
    text = ""
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
        return TomlFile(name, tomllib.loads(text), dict(_lines(text)))
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError([f"{name}:{line}: is not UTF-8 text"]) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([_syntax_problem(name, str(error), text)]) from error


def _syntax_problem(name: str, message: str, text: str) -> str:
    """Move the place in tomllib's message, "… (at line 3, column 5)", to where compilers put it."""
    what, _, place = message.partition(" (at ")
    numbers = re.findall(r"\d+", place) or [str(text.count("\n") + 1)]
    return ":".join([name, *numbers]) + f": {what}"


def _lines(text: str) -> Iterator[tuple[KeyPath, int]]:
    """Yield every key of a valid file with the first line that names it."""
    table: KeyPath = ()
    seen: set[KeyPath] = set()
    last: dict[KeyPath, int] = {}  # the index of the latest [[table]] of each list of tables
    for line, header, tree in _statements(text):
        paths = [table + path for path in _paths(tree)]
        if header:
            table = _header(list(_paths(tree))[-1], last)
            paths = [table[:size] for size in range(1, len(table) + 1)]
        for path in paths:
            if path not in seen:
                seen.add(path)
                yield path, line


def _header(path: KeyPath, last: dict[KeyPath, int]) -> KeyPath:
    """Return the path that a header means, and count it; alone, [[a.b]] reads as the first of its list.

    A header speaks of the latest one in a list: [a.b.c] after the second [[a.b]] is a.b[1].c.
    """
    *keys, end = path
    table: KeyPath = ()
    for key in keys if end == 0 else path:
        table += (last[table], key) if table in last else (key,)
    if end == 0:
        last[table] = last.get(table, -1) + 1
    return (*table, last[table]) if end == 0 else table


def _statements(text: str) -> Iterator[tuple[int, bool, Tree]]:
    """Yield the first line of each statement, whether it is a [header], and what it says alone."""
    piece, first = "", 1
    for line, row in enumerate(text.split("\n"), 1):
        piece += row + "\n"
        try:
            tree = tomllib.loads(piece)
        except tomllib.TOMLDecodeError:
            continue
        yield first, piece.lstrip().startswith("["), tree
        piece, first = "", line + 1


def _paths(value: Any) -> Iterator[KeyPath]:
    """Yield the path of everything inside a value, outer before inner."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (key,)
        yield from ((key, *path) for path in _paths(inner))


@dataclass(frozen=True, slots=True)
class Sources:
    """The three layers of values."""

    file: TomlFile
    environment: Environment
    flags: Tree

    def merged(self) -> Tree:
        """Return the values that win."""
        return _merge(_merge(self.file.tree, self.environment()), self.flags)

    def origin_of(self, path: KeyPath) -> str:
        """Return where the value at a path came from, ready to stand before a message, or nothing."""
        if _holds(self.flags, path):
            return "command line: "
        variable = self.environment.variable_of(path)
        if variable is None and path not in self.file.lines:
            variable = self.environment.variable_inside(path)
        if variable is not None:
            return f"{variable}: "
        line = self.file.line_of(path)
        return f"{self.file.name}:{line}: " if line else f"{self.file.name}: ".removeprefix(": ")


def _merge(below: Tree, above: Tree) -> Tree:
    """Return both trees as one; names of variables have no case, so they find a key whatever its case is."""
    merged = dict(below)
    for key, value in above.items():
        same = key if key in merged else next((known for known in merged if known.lower() == key), key)
        old = merged.get(same)
        merged[same] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _holds(tree: Any, path: KeyPath) -> bool:
    for key in path:
        if not isinstance(tree, dict):
            return True
        if key not in tree:
            return False
        tree = tree[key]
    return True
