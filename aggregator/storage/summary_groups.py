"""What the series of each group give over a span of buckets: the statements behind summaries over a selector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from aggregator.rollups.buckets import EPOCH
from aggregator.storage import tables
from aggregator.storage.catalog import TierEntry
from aggregator.storage.range_sums import total
from aggregator.storage.selecting import selected
from aggregator.storage.statistic_columns import average, rate
from aggregator.storage.stored_buckets import first_span

#: The values of a group's labels, in the order of the summary's `by`.
Key = tuple[str, ...]


@dataclass(frozen=True)
class Span:
    """Buckets that start in a half-open interval, all together or by points of a length."""

    since: datetime
    until: datetime
    point: timedelta | None = None


@dataclass(frozen=True)
class Group:
    """What the series of a group give in a span."""

    value: float | None
    as_of: datetime
    completeness: float | None
    is_final: bool


#: By group and the start of the point (None: all of the span together).
Answers = Mapping[tuple[Key, datetime | None], Group]


def read_answers(
    connection: Connection, tier: TierEntry, summary: Summary, span: Span, *, only: Sequence[Key] | None = None
) -> Answers:
    """By group and point: what `select` gives, over what `divide_by` gives where there is one."""
    if summary.select is None or only == []:
        return {}
    above = _groups(connection, tier, summary, summary.select, span=span, only=only)
    if summary.divide_by is None:
        return above
    below = _groups(connection, tier, summary, summary.divide_by, span=span, only=only)
    return {key: _divided(group, below[key]) for key, group in above.items() if key in below}


def _divided(above: Group, below: Group) -> Group:
    value = above.value / below.value if above.value is not None and below.value else None
    complete = [one.completeness for one in (above, below) if one.completeness is not None]
    return Group(value, min(above.as_of, below.as_of), min(complete, default=None), above.is_final and below.is_final)


def _groups(
    connection: Connection,
    tier: TierEntry,
    summary: Summary,
    selector: str,
    *,
    span: Span,
    only: Sequence[Key] | None,
) -> dict[tuple[Key, datetime | None], Group]:
    """One row per group of labels and point. Uses indexes: series_metric_idx, rollup_pkey, sealed_pkey, clock_pkey."""
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
        (tuple(row[: len(labels)]), _instant(row.point)): Group(row.value, row.as_of, row.completeness, row.is_final)
        for row in connection.execute(statement)
    }


def _instant(epoch_seconds: int | None) -> datetime | None:
    return None if epoch_seconds is None else EPOCH + timedelta(seconds=epoch_seconds)


def _per_series(tier: TierEntry, summary: Summary, selector: str, span: Span) -> Any:  # noqa: ANN401 - a sub-query, whose columns are not known to types
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
            # A sealed row is found by the start of its span; of an open one that is its bucket.
            c.span >= first_span(tier, span.since),
            c.span < span.until,
        )
        .group_by(c.series_id, *((literal_column("point"),) if span.point is not None else ()))
        .subquery("s")
    )


_ROLLUPS = table(
    "metric_rollups",
    column("time", DateTime(timezone=True)),
    column("span", DateTime(timezone=True)),
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
