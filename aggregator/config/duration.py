"""Lengths of time as people write them: `15s`, `1m30s`, `10y`."""

from __future__ import annotations

import re
from datetime import timedelta

#: The average month of the Gregorian calendar: 365.2425 days / 12. Nobody writes a multiple of it by other units, so
#: months are known by their length (`months_in`).
MONTH = timedelta(seconds=2_629_746)
_SECONDS_PER_UNIT = {
    "ms": 0.001,
    "s": 1,
    "m": 60,
    "h": 3_600,
    "d": 86_400,
    "w": 604_800,
    "mo": MONTH // timedelta(seconds=1),
    "y": 31_536_000,
}
_PART = re.compile(r"(\d+)(ms|s|mo|m|h|d|w|y)")
_WHOLE = re.compile(r"(?:\d+(?:ms|s|mo|m|h|d|w|y))+")


def parse_duration(text: str) -> timedelta:
    """Read a duration such as `1h30m`; a year is 365 days, as in Prometheus, a month (`mo`) an average one.

    Raises ValueError, with an example, for anything else (a bare number has no unit and is refused).
    """
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{text!r} is not a duration; write a whole number and a unit, such as 15s, 5m, 1h, 30d or 2y")
    seconds = sum(int(number) * _SECONDS_PER_UNIT[unit] for number, unit in _PART.findall(text))
    try:
        return timedelta(seconds=seconds)
    except OverflowError:
        raise ValueError(f"{text!r} is too long; 1000y is long enough for anything") from None


def format_duration(duration: timedelta) -> str:
    """Write a duration in the largest unit that divides it: 90 s is `90s`, 3,600 s is `1h`."""
    milliseconds = round(duration.total_seconds() * 1_000)
    for unit in ("y", "mo", "d", "h", "m", "s"):
        size = round(_SECONDS_PER_UNIT[unit] * 1_000)
        if milliseconds and milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms" if milliseconds else "0s"


def months_in(duration: timedelta) -> int:
    """How many months a duration is; 0 where it is no whole number of them."""
    return duration // MONTH if duration % MONTH == timedelta(0) else 0
