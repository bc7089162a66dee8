"""Macros as Grafana's PostgreSQL data source expands them, in its order; one that it does not know is an error.

Facts from Grafana's documentation and source (`pkg/tsdb/grafana-postgresql-datasource`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

#: An argument cannot hold a closing parenthesis.
_MACRO = re.compile(r"\$([_a-zA-Z0-9]+)\(([^)]*)\)")
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
#: Below the first number an interval is rounded to the second, in milliseconds.
_ROUNDED = (
    *((10, 1), (15, 10), (35, 20), (75, 50), (150, 100), (350, 200), (750, 500), (1_500, 1_000), (3_500, 2_000)),
    *((7_500, 5_000), (12_500, 10_000), (17_500, 15_000), (25_000, 20_000), (45_000, 30_000), (90_000, 60_000)),
    *((210_000, 120_000), (450_000, 300_000), (750_000, 600_000), (1_050_000, 900_000), (1_500_000, 1_200_000)),
    *((2_700_000, 1_800_000), (5_400_000, 3_600_000), (9_000_000, 7_200_000), (16_200_000, 10_800_000)),
    *((32_400_000, 21_600_000), (86_400_000, 43_200_000), (604_800_000, 86_400_000), (1_814_400_000, 604_800_000)),
)
_LONGEST_MS = 2_592_000_000


class UnknownMacroError(ValueError):
    """Grafana would show an error in place of the panel."""


@dataclass(frozen=True)
class Span:
    """What a dashboard shows: from `start` to `finish`, in intervals of `interval`."""

    start: datetime
    finish: datetime
    interval: timedelta

    @classmethod
    def of(cls, start: datetime, finish: datetime, *, shortest: str, points: float) -> Span:
        """The span with the interval that Grafana works out from a panel's `interval` and `maxDataPoints`."""
        wanted_ms = (finish - start) / timedelta(milliseconds=1) / points
        rounded = next((to for below, to in _ROUNDED if wanted_ms < below), _LONGEST_MS)
        return cls(start, finish, max(timedelta(milliseconds=rounded), duration(shortest)))


def duration(text: str) -> timedelta:
    """A duration such as `5m`. Raises UnknownMacroError where it is none."""
    found = re.fullmatch(r"(\d+)(ms|[smhdw])", text)
    if found is None:
        raise UnknownMacroError(f"{text} is no interval")
    return timedelta(seconds=int(found[1]) * _UNITS[found[2]])


def expand(sql: str, span: Span) -> str:
    """The SQL that Grafana sends; variables are expected to be filled in before. Raises UnknownMacroError."""
    words = {
        "$__interval_ms": str(span.interval // timedelta(milliseconds=1)),
        "$__interval": shown(span.interval),
        "$__unixEpochFrom()": str(int(span.start.timestamp())),
        "$__unixEpochTo()": str(int(span.finish.timestamp())),
    }
    for word, meaning in words.items():
        sql = sql.replace(word, meaning)
    return _MACRO.sub(lambda found: _evaluated(found[1], [part.strip(" ") for part in found[2].split(",")], span), sql)


def shown(interval: timedelta) -> str:
    """An interval in its largest whole unit, such as `5m`."""
    milliseconds = interval // timedelta(milliseconds=1)
    unit = next(unit for unit in ("d", "h", "m", "s", "ms") if milliseconds % round(_UNITS[unit] * 1_000) == 0)
    return f"{milliseconds // round(_UNITS[unit] * 1_000)}{unit}"


def _evaluated(name: str, arguments: list[str], span: Span) -> str:
    if name not in _MACROS:
        raise UnknownMacroError(f"unknown macro {name}")
    return _MACROS[name](arguments, span)


def _rfc3339(instant: datetime) -> str:
    text = f"{instant.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}".rstrip("0").rstrip(".")
    return f"'{text}Z'"


def _seconds(arguments: list[str]) -> str:
    if len(arguments) < 2:  # a column and an interval
        raise UnknownMacroError("a macro that groups needs a column and an interval")
    return f"{duration(arguments[1].strip(chr(39))).total_seconds():g}"


def _group(arguments: list[str], _: Span) -> str:
    seconds = _seconds(arguments)
    return f"floor(extract(epoch from {arguments[0]})/{seconds})*{seconds}"


def _epoch_group(arguments: list[str], _: Span) -> str:
    seconds = _seconds(arguments)
    return f"floor(({arguments[0]})/{seconds})*{seconds}"


def _epoch_filter(arguments: list[str], span: Span) -> str:
    column, start, finish = arguments[0], int(span.start.timestamp()), int(span.finish.timestamp())
    return f"{column} >= {start} AND {column} <= {finish}"


_MACROS: dict[str, Callable[[list[str], Span], str]] = {
    "__time": lambda arguments, _: f'{arguments[0]} AS "time"',
    "__timeEpoch": lambda arguments, _: f'extract(epoch from {arguments[0]}) as "time"',
    "__timeFilter": lambda arguments, span: (
        f"{arguments[0]} BETWEEN {_rfc3339(span.start)} AND {_rfc3339(span.finish)}"
    ),
    "__timeFrom": lambda _, span: _rfc3339(span.start),
    "__timeTo": lambda _, span: _rfc3339(span.finish),
    "__timeGroup": _group,
    "__timeGroupAlias": lambda arguments, span: f'{_group(arguments, span)} AS "time"',
    "__unixEpochFilter": _epoch_filter,
    "__unixEpochGroup": _epoch_group,
    "__unixEpochGroupAlias": lambda arguments, span: f'{_epoch_group(arguments, span)} AS "time"',
}
