"""From pydantic's errors to faults that name the place and say what would be right."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from difflib import get_close_matches
from typing import TYPE_CHECKING

from aggregator.config.duration import format_duration
from aggregator.config.lines import Path

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

#: What an unknown key may have been meant to be, by its path.
Keys = Callable[[Path], str]

#: Keys that a sentence of our own about a whole entry may begin with.
_POINTED_AT = frozenset(
    {"timeout", "labels", "timezone", "name", "without", "select", "divide_by", "stat", "by", "window", "top", "order"}
    | {"trend", "compare", "database", "max_rows", "bearer_token_file", "tls"}
)
_KINDS = "prometheus, host, command"
_WHAT_IS_RIGHT = {
    "string_type": "a text in quotes",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "tuple_type": 'a list such as ["..."]',
    "dict_type": 'a table such as { name = "value" }',
    "model_type": "a table",
    "model_attributes_type": "a table",
    "time_delta_type": 'a duration such as "15s"',
    "path_type": "a path in quotes",
}


def explain(error: ValidationError, keys: Keys, *, is_secret: Callable[[str], bool]) -> Iterator[tuple[Path, str]]:
    """Each error's path below what was validated, and one sentence on what is wrong and what would be right.

    `keys` explains an unknown key, given its path. What was written is not shown where `is_secret` says so of the
    path's first key.
    """
    seen = set()
    # Every member of a union reports; our own sentence is the best of what they say.
    for detail in sorted(error.errors(include_url=False), key=lambda detail: detail["type"] != "value_error"):
        path, sentence = _path(detail), None
        if detail["type"] == "value_error":
            path, sentence = _pointed(path, str(detail["ctx"]["error"]))
        if path not in seen:
            seen.add(path)
            shown = "this" if path and is_secret(str(path[0])) else _shown(detail["input"])
            yield path, sentence or _sentence(detail, path, keys, shown=shown)


def _path(detail: ErrorDetails) -> Path:
    """Without the parts that name a member of a union instead of a key."""
    location = detail["loc"]
    if location and location[0] in ("prometheus", "host", "command", "selftest"):
        location = location[1:]
    if location[:1] == ("parse",):
        return ("parse",)
    if detail["type"].startswith("union_tag"):
        return (*location, "kind")
    return tuple(part for part in location if part != "[key]")


def _pointed(path: Path, sentence: str) -> tuple[Path, str]:
    """The key that a sentence about a whole entry begins with, as our own validators do, and the rest of it."""
    word, _, rest = sentence.partition(" ")
    return ((word,), rest) if not path and word in _POINTED_AT else (path, sentence)


def _sentence(  # noqa: PLR0911 - one for each kind of error
    detail: ErrorDetails, path: Path, keys: Keys, *, shown: str
) -> str:
    kind = detail["type"]
    context = detail.get("ctx", {})
    if path == ("parse",):
        return '"key_value", "json", "none" or { regex = "..." } is expected'
    if kind in _WHAT_IS_RIGHT:
        return f"{shown} is given where {_WHAT_IS_RIGHT[kind]} is expected"
    if kind == "extra_forbidden":
        return keys(path)
    if kind == "missing":
        return "is missing; every entry needs it"
    if kind.startswith("union_tag"):
        return f"is missing; one of {_KINDS}" if kind.endswith("not_found") else f"no such kind; one of {_KINDS}"
    if kind == "literal_error":
        return f"{shown} is none of {context['expected']}"
    if kind == "string_pattern_mismatch":
        return f"{shown} is not allowed; {_pattern_in_words(str(context['pattern']))}"
    if kind in _BOUNDS:
        return f"{shown} is out of bounds; it must be {_BOUNDS[kind]} {next(iter(context.values()))}"
    return detail["msg"]


_BOUNDS = {
    "greater_than": "more than",
    "greater_than_equal": "at least",
    "less_than": "less than",
    "less_than_equal": "at most",
}


def _pattern_in_words(pattern: str) -> str:
    if pattern.startswith("^https?"):
        return 'write a URL such as "http://10.0.0.5:9100/metrics"'
    if pattern.startswith("^[a-zA-Z_:]"):
        return "a metric's name has letters, digits, _ and :, and begins with no digit"
    if pattern.startswith("^[a-zA-Z_]"):
        return "a label name has letters, digits and _, and begins with no digit"
    if pattern.startswith("^[a-z][a-z0-9_]"):
        return "a database's name has small letters, digits and _, and begins with a letter"
    if pattern.startswith("^[a-z0-9]"):
        return "a tier's name has at most 16 small letters, digits and _, and does not begin with _"
    return "a name has at most 63 letters, digits and _ . -, and begins with a letter or digit"


def _shown(value: object) -> str:
    return format_duration(value) if isinstance(value, timedelta) else _WITHIN_ADDRESS.sub(":***@", repr(value))


#: All that may be the password of an address, however mistyped: from the first colon of a text to its last @.
_WITHIN_ADDRESS = re.compile(r""":[^'"]*@""")


def no_such_key(key: str, known: Iterable[str]) -> str:
    """That a key is unknown, and which was probably meant."""
    choices = list(dict.fromkeys(known))
    close = get_close_matches(key, choices, n=1)
    return "no such key; " + (f"did you mean {close[0]}?" if close else f"known are {', '.join(choices)}")
