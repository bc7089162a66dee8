"""On which line each key of a TOML text stands, which the standard library's parser does not tell."""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Keys and array indices from the root, such as ("sources", 0, "interval").
Path = tuple[str | int, ...]

_PART = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_KEY = re.compile(rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}(?!")|' + r"'''.*?'{3,5}(?!')|" + r'"(?:[^"\\]|\\.)*"|' + r"'[^']*'", re.DOTALL
)
_SCALAR = re.compile(r"[^,\]}#\n]+")
_BLANK = re.compile(r"[ \t]*")
_BETWEEN = re.compile(r"(?:\s|#[^\n]*)*")


def key_lines(text: str) -> dict[Path, int]:
    """The line (from 1) of every table, key and array element of a TOML text that `tomllib` has accepted.

    A table that several headers or dotted keys extend has the line of the first.
    """
    return _Index(text).lines


def line_of(lines: Mapping[Path, int], path: Path) -> int | None:
    """The line of a path, or of what is nearest above it; None where nothing is."""
    for length in range(len(path), 0, -1):
        if path[:length] in lines:
            return lines[path[:length]]
    return None


class _Index:
    """A walk through one text, from left to right."""

    def __init__(self, text: str) -> None:
        self.lines: dict[Path, int] = {}
        self._text = text
        self._newlines = [place for place, character in enumerate(text) if character == "\n"]
        self._position = 0
        self._lengths: dict[Path, int] = {}
        table: Path = ()
        self._pass(_BETWEEN)
        while self._position < len(text):
            table = self._header() if self._at("[") else self._pair(table)
            self._pass(_BETWEEN)

    def _header(self) -> Path:
        brackets = 2 if self._at("[[") else 1
        place = self._position
        self._position += brackets
        *parents, last = self._key()
        self._pass(_BLANK)
        self._position += brackets
        table: Path = ()
        for part in parents:
            table = self._newest((*table, part))
        table = (*table, last)
        self._record(table, place)
        if brackets == 1:
            return table
        self._lengths[table] = self._lengths.get(table, 0) + 1
        self._record(self._newest(table), place)
        return self._newest(table)

    def _newest(self, table: Path) -> Path:
        """The last element of an array of tables; any other table itself."""
        return (*table, self._lengths[table] - 1) if table in self._lengths else table

    def _pair(self, table: Path) -> Path:
        place = self._position
        path = table
        for part in self._key():
            path = (*path, part)
            self._record(path, place)
        self._pass(_BLANK)
        self._position += 1  # the equals sign
        self._pass(_BLANK)
        self._value(path)
        return table

    def _value(self, path: Path) -> None:
        if self._at("["):
            self._array(path)
        elif self._at("{"):
            self._inline_table(path)
        else:
            self._pass(_STRING if self._at('"') or self._at("'") else _SCALAR)

    def _array(self, path: Path) -> None:
        self._step()
        index = 0
        while not self._at("]"):
            self._record((*path, index), self._position)
            self._value((*path, index))
            self._separate()
            index += 1
        self._position += 1

    def _inline_table(self, path: Path) -> None:
        self._step()
        while not self._at("}"):
            self._pair(path)
            self._separate()
        self._position += 1

    def _separate(self) -> None:
        self._pass(_BETWEEN)
        if self._at(","):
            self._step()

    def _step(self) -> None:
        self._position += 1
        self._pass(_BETWEEN)

    def _key(self) -> list[str]:
        self._pass(_BLANK)
        return _parts(self._pass(_KEY))

    def _record(self, path: Path, place: int) -> None:
        self.lines.setdefault(path, bisect_right(self._newlines, place - 1) + 1)

    def _at(self, text: str) -> bool:
        return self._text.startswith(text, self._position)

    def _pass(self, expression: re.Pattern[str]) -> str:
        found = expression.match(self._text, self._position)
        if found is None:  # only for a text that tomllib refuses
            raise ValueError(f"no TOML at {self._position}")
        self._position = found.end()
        return found[0]


def _parts(key: str) -> list[str]:
    """The parts of a dotted key, unquoted as tomllib unquotes them."""
    table: Any = tomllib.loads(f"{key} = 0")
    parts: list[str] = []
    while isinstance(table, dict):
        ((part, table),) = table.items()
        parts.append(part)
    return parts
