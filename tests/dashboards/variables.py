"""A dashboard's variables as Grafana fills them into the text of an SQL query, before the macros.

Facts from Grafana's documentation ("Variable syntax") and source (`packages/grafana-sql`, `scenes`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: `$name` or `${name:format}`; a name that is no variable is left as it is, as are macros.
_PLACE = re.compile(r"\$(\w+)|\$\{(\w+)(?::(\w+))?\}")
_REGEX_SPECIAL = re.compile(r"[\\^$*+?.()|\[\]{}/]")


@dataclass(frozen=True)
class Value:
    """What is chosen in a variable. `all_text` is a variable's own value for All: it is filled in as it stands."""

    chosen: str | Sequence[str]
    is_multiple: bool = False
    all_text: str = ""


def filled(text: str, values: Mapping[str, Value]) -> str:
    """The text with the variables filled in."""

    def fill(found: re.Match[str]) -> str:
        value = values.get(found[1] or found[2])
        return found[0] if value is None else _formatted(value, found[3])

    return _PLACE.sub(fill, text)


def _formatted(value: Value, form: str | None) -> str:
    if value.all_text:
        return value.all_text
    chosen = [value.chosen] if isinstance(value.chosen, str) else list(value.chosen)
    if form == "regex":
        escaped = [_REGEX_SPECIAL.sub(r"\\\g<0>", one) for one in chosen]
        return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"
    if form == "sqlstring":
        return ",".join("'" + one.replace("'", "''").replace('"', '\\"') + "'" for one in chosen)
    if form == "raw":
        return ",".join(chosen)
    assert form is None, f"format {form} is not known here"
    # The data source's own way: quoted where more than one can be chosen, else with quotes doubled.
    doubled = [one.replace("'", "''") for one in chosen]
    return ",".join(f"'{one}'" for one in doubled) if value.is_multiple else ",".join(doubled)
