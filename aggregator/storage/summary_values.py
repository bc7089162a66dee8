"""Summaries over a selector: computed from the rollups of the tier that fits the window."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    DateTime,
    Double,
    SmallInteger,
    cast,
    column,
    func,
    literal,
    literal_column,
    select,
    table,
    tuple_,
)
from sqlalchemy.dialects.postgresql import JSONB, array

from aggregator.config.model import Summary
from aggregator.config.selector import parse_selector
from aggregator.errors import AggregatorError
from aggregator.rollups.buckets import EPOCH, floor_to
from aggregator.storage import tables
from aggregator.storage.catalog import Installation, TierEntry
from aggregator.storage.range_points import average, rate, total
from aggregator.storage.selecting import selected

#: The finest tier that needs no more buckets than this for a window is read.
MOST_BUCKETS = 120

Key = tuple[str, ...]


@dataclass(frozen=True)
class Computed:
    """A summary's answer: its rows, and how much to trust them. `tier` and `completeness`: None for SQL."""

    rows: list[dict[str, Any]]
    as_of: datetime
    tier: str | None
    completeness: float | None
    is_final: bool


@dataclass(frozen=True)
class _Span:
    """Buckets that start in a half-open interval, all together or by points of a length."""

    since: datetime
    until: datetime
    point: timedelta | None = None


@dataclass(frozen=True)
class _Group:
    """What the series of a group give in a span."""

    value: float | None
    as_of: datetime
    completeness: float | None
    is_final: bool


def choose_tier(installation: Installation, summary: Summary) -> TierEntry:
    """The finest tier that covers the window with few buckets and is kept so long; else the coarsest.

    With a trend, of the tiers whose buckets make up its points. Raises AggregatorError where none does.
    """
    fitting = [tier for tier in installation.tiers if _makes_up_points(tier, summary)]
    if not fitting:
        raise AggregatorError(f"summary {summary.name}: no tier's step divides the points of its trend; write fewer")
    looked_back = summary.window * (2 if summary.compare else 1)
    small = (
        tier
        for tier in fitting
        if summary.window / tier.ladder.step <= MOST_BUCKETS and tier.retention >= looked_back + tier.ladder.step
    )
    return next(small, fitting[-1])


def _makes_up_points(tier: TierEntry, summary: Summary) -> bool:
    if not summary.trend:
        return True
    return not tier.ladder.is_calendar and not summary.window / summary.trend % tier.ladder.step


def compute(connection: Connection, installation: Installation, summary: Summary, *, now: datetime) -> Computed:
    """Compute a summary over its window up to now, from whole buckets: the one in which the window begins is in it.

    Per series first, then over the series of a group: an average is weighted by samples, rates and increases are
    summed, a ratio divides the groups of two selectors that have equal labels.
    """
    tier = choose_tier(installation, summary)
    since = tier.ladder.start_of(now - summary.window)
    answers = _answers(connection, tier, summary, _Span(since, now))
    shown = _ranked(answers, summary)
    rows = [{**dict(zip(summary.by, key, strict=True)), "value": answers[key, None].value} for key in shown]
    if summary.compare:
        earlier = _Span(tier.ladder.start_of(now - 2 * summary.window), since)
        _add_before(rows, shown, _answers(connection, tier, summary, earlier, only=shown))
    if summary.trend:
        _add_trend(rows, shown, _trend(connection, tier, summary, shown, now=now))
    groups = [answers[key, None] for key in shown]
    return Computed(
        rows=rows,
        as_of=max((group.as_of for group in groups), default=now),
        tier=tier.name,
        completeness=min((group.completeness for group in groups if group.completeness is not None), default=None),
        is_final=all(group.is_final for group in groups),
    )


Answers = Mapping[tuple[Key, datetime | None], _Group]


def _ranked(answers: Answers, summary: Summary) -> list[Key]:
    """The groups that are shown, first the highest (or lowest); equal ones in the order of their labels."""
    given = sorted((key, group.value) for (key, _), group in answers.items() if group.value is not None)
    given.sort(key=lambda pair: pair[1], reverse=summary.order == "highest")
    return [key for key, _ in given[: summary.top]]


def _add_before(rows: Iterable[dict[str, Any]], shown: Iterable[Key], answers: Answers) -> None:
    for row, key in zip(rows, shown, strict=True):
        group = answers.get((key, None))
        row["before"] = group.value if group is not None else None
        row["ratio"] = row["value"] / row["before"] if row["before"] else None


def _add_trend(
    rows: Iterable[dict[str, Any]], shown: Iterable[Key], points: tuple[Sequence[datetime], Answers]
) -> None:
    starts, answers = points
    for row, key in zip(rows, shown, strict=True):
        found = ((start, answers.get((key, start))) for start in starts)
        row["trend"] = [[start.isoformat(), group.value if group else None] for start, group in found]


def _trend(
    connection: Connection, tier: TierEntry, summary: Summary, shown: Sequence[Key], *, now: datetime
) -> tuple[Sequence[datetime], Answers]:
    """The starts of the points, oldest first, and their values; the running one is left out while it has none."""
    length = summary.window / summary.trend
    running = floor_to(now, length)
    span = _Span(running - summary.trend * length, now, length)
    answers = _answers(connection, tier, summary, span, only=shown)
    newest = max((at for _, at in answers if at is not None), default=running)
    last = max(newest, running - length)
    return [last - back * length for back in range(summary.trend - 1, -1, -1)], answers


def _answers(
    connection: Connection, tier: TierEntry, summary: Summary, span: _Span, *, only: Sequence[Key] | None = None
) -> Answers:
    """By group and point: what `select` gives, over what `divide_by` gives where there is one."""
    if summary.select is None or only == []:
        return {}
    above = _groups(connection, tier, summary, summary.select, span=span, only=only)
    if summary.divide_by is None:
        return above
    below = _groups(connection, tier, summary, summary.divide_by, span=span, only=only)
    return {key: _divided(group, below[key]) for key, group in above.items() if key in below}


def _divided(above: _Group, below: _Group) -> _Group:
    value = above.value / below.value if above.value is not None and below.value else None
    complete = [one.completeness for one in (above, below) if one.completeness is not None]
    return _Group(value, min(above.as_of, below.as_of), min(complete, default=None), above.is_final and below.is_final)


def _groups(
    connection: Connection,
    tier: TierEntry,
    summary: Summary,
    selector: str,
    *,
    span: _Span,
    only: Sequence[Key] | None,
) -> dict[tuple[Key, datetime | None], _Group]:
    """One row per group of labels and point. Uses indexes: series_metric_idx, rollup_pkey."""
    s = _per_series(tier, summary, selector, span).c
    labels = [
        func.coalesce(s.labels.op("->>")(name), "").label(f"label_{place}") for place, name in enumerate(summary.by)
    ]
    statement = select(
        *labels,
        s.point,
        literal_column(_OF_GROUP[summary.stat], Double).label("value"),
        func.max(s.as_of).label("as_of"),
        cast(func.avg(s.completeness), Double).label("completeness"),
        func.bool_and(s.is_final).label("is_final"),
    ).group_by(*labels, s.point)
    if only is not None and labels:
        statement = statement.where(tuple_(*(label.element for label in labels)).in_(only))
    return {
        (tuple(row[: len(labels)]), _instant(row.point)): _Group(row.value, row.as_of, row.completeness, row.is_final)
        for row in connection.execute(statement)
    }


def _instant(epoch_seconds: int | None) -> datetime | None:
    return None if epoch_seconds is None else EPOCH + timedelta(seconds=epoch_seconds)


def _per_series(tier: TierEntry, summary: Summary, selector: str, span: _Span) -> Any:  # noqa: ANN401 - a sub-query, whose columns are not known to types
    """One row per series and point, with what the statistic needs of it."""
    c = _ROLLUPS.c
    point: ColumnElement[Any] = literal(None, BigInteger)
    if span.point is not None:
        seconds = round(span.point.total_seconds())
        point = cast(func.floor(func.extract("epoch", c.time) / seconds) * seconds, BigInteger)
    return (
        select(
            point.label("point"),
            func.array_agg(c.labels)[1].label("labels"),
            *(_OF_SERIES[name].label(name) for name in _SERIES_STATISTICS[summary.stat]),
            func.max(c.time).label("as_of"),
            func.avg(c.completeness).label("completeness"),
            func.bool_and(c.is_final).label("is_final"),
        )
        .where(
            c.tier_id == tier.id,
            selected(parse_selector(selector), metric=c.metric, labels=c.labels),
            c.time >= span.since,
            c.time < span.until,
        )
        .group_by(c.series_id, *((literal_column("point"),) if span.point is not None else ()))
        .subquery("s")
    )


_ROLLUPS = table(
    "metric_rollups",
    column("time", DateTime(timezone=True)),
    column("metric"),
    column("labels", JSONB),
    column("tier_id", SmallInteger),
    *(column(name, Double) for name in ("count", "min", "max", "last", "completeness", "is_final", "series_id")),
    schema=tables.SCHEMA,
)

#: What each statistic needs of a series; nothing else is computed.
_SERIES_STATISTICS = {
    "avg": ("sum", "count"),
    "sum": ("sum",),
    "min": ("min",),
    "max": ("max",),
    "last": ("last",),
    "increase": ("increase",),
    "rate": ("increase", "covered"),
}
_OF_SERIES: dict[str, ColumnElement[Any]] = {
    "sum": literal_column(total("sum")),
    "count": func.sum(_ROLLUPS.c["count"]),
    "min": func.min(_ROLLUPS.c["min"]),
    "max": func.max(_ROLLUPS.c["max"]),
    # The greatest (time, value): no sort is needed for the newest one.
    "last": func.max(array([cast(func.extract("epoch", _ROLLUPS.c.time), Double), _ROLLUPS.c.last]))[2],
    "increase": literal_column(total("increase")),
    "covered": literal_column("sum(covered)"),
}
_RATE = rate("s.increase", "s.covered")
#: SQL: a statistic over the series of a group: averages weighted by samples, rates and last values summed.
_OF_GROUP = {
    "avg": average(f"({total('s.sum')})", "sum(s.count)"),
    "sum": total("s.sum"),
    "min": "min(s.min)",
    "max": "max(s.max)",
    "last": total("s.last"),
    "increase": total("s.increase"),
    "rate": total(f"({_RATE})", where=f"({_RATE}) IS NOT NULL"),
}
