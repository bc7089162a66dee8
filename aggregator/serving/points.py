"""Rows of a range as JSON, and which of their statistics are wanted."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from aggregator.errors import UsageError

if TYPE_CHECKING:
    from aggregator.storage.query import Point

DEFAULT_STATISTICS = "avg,min,max,rate"


def parse_statistics(text: str) -> tuple[str, ...]:
    """The statistics that a text names, with commas between them; raises UsageError for one that there is not."""
    from aggregator.storage.query import STATISTICS  # noqa: PLC0415 - not needed for --help

    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in STATISTICS]
    if unknown or not names:
        raise UsageError(f"no statistic is called {', '.join(unknown) or 'nothing'}; there are {', '.join(STATISTICS)}")
    return names


def point_document(point: Point) -> dict[str, Any]:
    """A row as plain JSON; its instant is in UTC."""
    return {
        "time": _instant(point.time),
        "metric": point.metric,
        "labels": dict(point.labels),
        **{name: _number(value) for name, value in point.values.items()},
        "completeness": point.completeness,
        "is_final": point.is_final,
        "tier": point.tier,
    }


def _instant(instant: datetime) -> str:
    return instant.isoformat().replace("+00:00", "Z")


def _number(value: float | None) -> float | str | None:
    """JSON has no infinities: they are written as Prometheus writes them."""
    return value if value is None or abs(value) != float("inf") else ("+Inf" if value > 0 else "-Inf")
