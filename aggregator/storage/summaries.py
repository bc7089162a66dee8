"""Summaries: computed from a tier's rollups, and kept with their last good value."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    DateTime,
    Double,
    Float,
    TableClause,
    cast,
    column,
    func,
    select,
    table,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, array

from aggregator.config.model import Summary
from aggregator.config.selector import parse_selector
from aggregator.storage import tables
from aggregator.storage.catalog import Installation, TierEntry
from aggregator.storage.selecting import selected

#: The finest tier that needs no more buckets than this for a window is read.
MOST_BUCKETS = 120


@dataclass(frozen=True)
class Computed:
    """A summary's answer: rows of labels and a value, and how much to trust them."""

    rows: list[dict[str, Any]]
    as_of: datetime
    tier: str
    completeness: float | None
    is_final: bool


def active_summaries(connection: Connection) -> list[Summary]:
    """The published summaries."""
    stored = tables.summaries
    rows = connection.execute(select(stored.c.definition).where(stored.c.active).order_by(stored.c.name)).scalars()
    return [Summary.model_validate(definition) for definition in rows]


def shortest_refresh(connection: Connection) -> timedelta | None:
    """How often the most eager summary is refreshed; None where there is none."""
    stored = tables.summaries
    seconds = connection.execute(select(func.min(stored.c.refresh_seconds)).where(stored.c.active)).scalar_one()
    return None if seconds is None else timedelta(seconds=seconds)


def choose_tier(installation: Installation, summary: Summary) -> TierEntry:
    """The finest tier that covers the window with few buckets; else the coarsest."""
    fitting = [tier for tier in installation.tiers if summary.window / tier.ladder.step <= MOST_BUCKETS]
    return fitting[0] if fitting else installation.tiers[-1]


def compute(connection: Connection, installation: Installation, summary: Summary, *, now: datetime) -> Computed:
    """Compute a summary over its window up to now.

    Per series first, then over the series of a group: an average is weighted by samples, rates and increases are
    summed, a ratio divides the groups of two selectors that have equal labels.
    """
    tier = choose_tier(installation, summary)
    groups = _groups(connection, tier, summary, summary.select, now=now)
    values = {key: row["value"] for key, row in groups.items()}
    if summary.divide_by is not None:
        below = _groups(connection, tier, summary, summary.divide_by, now=now)
        values = {
            key: value / below[key]["value"]
            for key, value in values.items()
            if value is not None and key in below and below[key]["value"]
        }
    given = [(key, value) for key, value in values.items() if value is not None]
    given.sort(key=lambda pair: pair[1], reverse=summary.order == "highest")
    rows = [{**dict(zip(summary.by, key, strict=True)), "value": value} for key, value in given[: summary.top]]
    shown = [groups[key] for key, _ in given[: summary.top]]
    return Computed(
        rows=rows,
        as_of=max((row["as_of"] for row in shown), default=now),
        tier=tier.name,
        completeness=min((row["completeness"] for row in shown), default=None),
        is_final=all(row["is_final"] for row in shown),
    )


def _groups(
    connection: Connection, tier: TierEntry, summary: Summary, selector: str, *, now: datetime
) -> dict[tuple[str, ...], dict[str, Any]]:
    """One row per group of labels. Uses indexes: series_metric_idx, rollup_pkey."""
    c = _view(tier).c
    per_series = (
        select(
            c.labels,
            *(_of_series(name, c).label(name) for name in _SERIES_STATISTICS[summary.stat]),
            func.max(c.time).label("as_of"),
            func.avg(c.completeness).label("completeness"),
            func.bool_and(c.is_final).label("is_final"),
        )
        .where(selected(parse_selector(selector), metric=c.metric, labels=c.labels), c.time > now - summary.window)
        .group_by(c.metric, c.labels)
        .subquery()
    )
    s = per_series.c
    value = _of_group(summary.stat, s)
    labels = [
        func.coalesce(s.labels.op("->>")(name), "").label(f"label_{place}") for place, name in enumerate(summary.by)
    ]
    statement = select(
        *labels,
        value.cast(Double).label("value"),
        func.max(s.as_of).label("as_of"),
        func.avg(s.completeness).cast(Float).label("completeness"),
        func.bool_and(s.is_final).label("is_final"),
    ).group_by(*labels)
    if not labels:
        statement = statement.having(func.count() > 0)
    found = connection.execute(statement).mappings()
    return {tuple(row[f"label_{place}"] for place in range(len(labels))): dict(row) for row in found}


def _view(tier: TierEntry) -> TableClause:
    """The view of a tier, with the columns that summaries read."""
    names = ("count", "sum", "min", "max", "last", "increase", "rate", "completeness", "is_final")
    return table(
        f"metrics_{tier.name}",
        column("time", DateTime(timezone=True)),
        column("metric"),
        column("labels", JSONB),
        *(column(name, Double) for name in names),
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


def _of_series(name: str, c: Any) -> ColumnElement[Any]:  # noqa: ANN401 - the columns of a view
    """A statistic of one series over the window."""
    if name == "last":
        # The greatest (time, value): no sort is needed for the newest one.
        newest: ColumnElement[Any] = func.max(array([cast(func.extract("epoch", c.time), Double), c.last]))[2]
        return newest
    if name == "covered":
        return func.sum(c.increase / func.nullif(c.rate, 0))
    return _combined(name, c[name])


def _of_group(stat: str, s: Any) -> ColumnElement[Any]:  # noqa: ANN401 - the columns of a sub-query
    """A statistic over the series of a group: averages weighted, rates and last values summed."""
    if stat == "avg":
        return func.sum(s.sum) / func.nullif(func.sum(s["count"]), 0)
    if stat == "rate":
        return func.sum(func.coalesce(s.increase / func.nullif(s.covered, 0), 0))
    return _combined(stat, s[stat])


def _combined(stat: str, values: ColumnElement[Any]) -> ColumnElement[Any]:
    """Several values of a statistic as one: the least, the greatest, or the sum."""
    if stat == "min":
        return func.min(values)
    return func.max(values) if stat == "max" else func.sum(values)


def store(connection: Connection, name: str, computed: Computed, *, now: datetime) -> int:
    """Keep a summary's answer; gives its version. Uses index: summaries_pkey."""
    stored = tables.summaries
    statement = (
        update(stored)
        .where(stored.c.name == name)
        .values(
            value=computed.rows,
            as_of=computed.as_of,
            computed_at=now,
            tier=computed.tier,
            completeness=computed.completeness,
            is_final=computed.is_final,
            version=stored.c.version + 1,
            last_error=None,
            last_error_at=None,
        )
        .returning(stored.c.version)
    )
    return int(connection.execute(statement).scalar_one())


def store_error(connection: Connection, name: str, error: str, *, now: datetime) -> None:
    """Record that a refresh failed; the last good value stays. Uses index: summaries_pkey."""
    stored = tables.summaries
    connection.execute(update(stored).where(stored.c.name == name).values(last_error=error, last_error_at=now))
