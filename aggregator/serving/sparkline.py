"""A trend as a line of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_BARS = "▁▂▃▄▅▆▇█"


def is_trend(value: Any) -> bool:  # noqa: ANN401 - what JSON can hold
    """Whether a value is a list of points: pairs of an instant and a number or null."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(point, list) and len(point) == 2 and isinstance(point[0], str) for point in value)  # noqa: PLR2004 - a pair
        and all(point[1] is None or isinstance(point[1], int | float) for point in value)
    )


def sparkline(points: Sequence[Sequence[Any]]) -> str:
    """One bar for each point, between the least and the greatest of them; a space where there is no value."""
    values = [point[1] for point in points]
    given = [value for value in values if value is not None]
    if not given:
        return " " * len(values)
    least, greatest = min(given), max(given)
    # Halves: the distance of two doubles may be no double.
    height = greatest / 2 - least / 2

    def bar(value: float) -> str:
        share = (value / 2 - least / 2) / height if height else 0.5
        return _BARS[min(int(share * len(_BARS)), len(_BARS) - 1)]

    return "".join(" " if value is None else bar(value) for value in values)
