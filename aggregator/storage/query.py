"""What a selector finds in the views: the same rows that Grafana would see."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnClause, Connection, FromClause, column, select, table
from sqlalchemy.dialects.postgresql import JSONB

from aggregator.config.selector import METRIC_NAME_LABEL, Matcher, Selector
from aggregator.errors import UsageError
from aggregator.storage import catalog, tables
from aggregator.storage.selecting import selected
from aggregator.storage.stored_buckets import first_span

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

STATISTICS = ("count", "sum", "avg", "min", "max", "first", "last", "stddev", "increase", "rate")
RAW = "raw"
#: With step `auto`, the finest tier that gives at most so many points a series is read.
MOST_POINTS = 500
#: How many names are shown of those that exist.
MOST_NAMES = 5

_METRICS_READ = 20_000


@dataclass(frozen=True)
class QueryTier:
    """A tier, from when on it is kept (UTC), and in whose zone its days begin."""

    name: str
    step: timedelta
    kept_since: datetime
    timezone: str = "UTC"


@dataclass(frozen=True)
class Point:
    """One row. `values`: by statistic, None where the series' kind has none; the rest is None for raw samples."""

    time: datetime
    metric: str
    labels: Mapping[str, str]
    values: Mapping[str, float | None]
    completeness: float | None
    is_final: bool | None
    tier: str


def read_tiers(connection: Connection, *, now: datetime) -> list[QueryTier]:
    """The active tiers, finest first."""
    tiers, retained = tables.tiers.c, tables.retained.c
    own = (retained.table_name == "rollup") & (retained.tier_id == tiers.id)
    statement = select(tiers.name, tiers.step_seconds, tiers.retention_seconds, tiers.timezone, retained.dropped_before)
    statement = statement.select_from(tables.tiers.outerjoin(tables.retained, own))
    return [
        QueryTier(
            row.name,
            timedelta(seconds=row.step_seconds),
            max(now - timedelta(seconds=row.retention_seconds), row.dropped_before or _EVER.replace(tzinfo=now.tzinfo)),
            row.timezone,
        )
        for row in connection.execute(statement.where(tiers.active).order_by(tiers.step_seconds, tiers.id))
    ]


_EVER = datetime(1, 1, 1)  # noqa: DTZ001 - it is given the zone of what it is compared with


def choose_tier(tiers: Sequence[QueryTier], step: str, *, start: datetime, finish: datetime) -> str:
    """The name of the tier to read for `auto`, a tier's name, its step or `raw`; raises UsageError for another step."""
    if step == RAW:
        return RAW
    if not tiers:
        raise UsageError("there is no tier yet; start a worker, or write --step raw for samples")
    if step == "auto":
        fitting = (tier for tier in tiers if (finish - start) / tier.step <= MOST_POINTS and tier.kept_since <= start)
        return next(fitting, tiers[-1]).name
    if step in (tier.name for tier in tiers):
        return step
    names = ", ".join(tier.name for tier in tiers)
    raise UsageError(f"no tier has the step {step}; write one of {names}, raw or auto")


def read_points(
    connection: Connection,
    selector: Selector,
    *,
    tier: str,
    start: datetime,
    finish: datetime,
    statistics: Sequence[str],
) -> Iterator[Point]:
    """The rows of a tier, or of the samples, in the half-open interval, by series and time; read as they are used.

    Samples have the one statistic `value`. Uses indexes: series_metric_idx, rollup_pkey, sealed_pkey, clock_pkey,
    sample_frame_pkey.
    """
    is_raw = tier == RAW
    names = ("value",) if is_raw else tuple(statistics)
    view = _view("samples" if is_raw else f"metrics_{tier}", names if is_raw else (*names, "completeness", "is_final"))
    c = view.c
    inside = [c.time >= start, c.time < finish]
    if not is_raw:
        inside += [column("span") >= _first_span(connection, tier, start), column("span") < finish]
    statement = (
        select(view)
        .where(selected(selector, metric=c.metric, labels=c.labels), *inside)
        .order_by(c.metric, c.labels, c.time)
    )
    rows = connection.execute(statement, execution_options={"yield_per": 5_000}).mappings()
    for row in rows:
        yield Point(
            time=row["time"],
            metric=row["metric"],
            labels=row["labels"],
            values={name: row[name] for name in names},
            completeness=None if is_raw else row["completeness"],
            is_final=None if is_raw else row["is_final"],
            tier=tier,
        )


def _first_span(connection: Connection, tier_name: str, start: datetime) -> datetime:
    """The start of the oldest sealed row that may reach beyond an instant."""
    tiers = catalog.read_installation(connection).tiers
    return next((first_span(tier, start) for tier in tiers if tier.name == tier_name), start)


def _view(name: str, columns: Sequence[str]) -> FromClause:
    given: list[ColumnClause[Any]] = [column(column_name) for column_name in ("time", "metric", *columns)]
    return table(name, *given, column("labels", JSONB), schema=tables.SCHEMA)


def explain_nothing(connection: Connection, selector: Selector) -> str:
    """Why a selector found no row, and what exists instead; for people. Uses index: series_metric_idx."""
    series = tables.series.c
    matching = select(series.id).where(selected(selector, metric=series.metric, labels=series.labels)).limit(1)
    if connection.execute(matching).first() is not None:
        return "the series exist, but have nothing in this interval; try another --from, --to or --step"
    if selector.metric is None:
        return "no series matches"
    own = select(series.labels).where(series.metric == selector.metric).limit(1)
    labels = connection.execute(own).scalar_one_or_none()
    if labels is not None:
        conditions = ", ".join(str(matcher) for matcher in selector.matchers if matcher.name != METRIC_NAME_LABEL)
        return f"no series of {selector.metric} matches {conditions}; one has {_as_selector(selector.metric, labels)}"
    names = connection.execute(select(series.metric).distinct().limit(_METRICS_READ)).scalars().all()
    if not names:
        return "there is no series yet; `aggregator status` tells whether anything is collected"
    similar = similar_names(selector.metric, names)
    return f"there is no metric {selector.metric}" + (f"; similar names: {', '.join(similar)}" if similar else "")


def similar_names(name: str, names: Sequence[str]) -> list[str]:
    """Names that resemble one, or contain it, best first."""
    from difflib import get_close_matches  # noqa: PLC0415 - only where nothing was found

    containing = sorted((other for other in names if name in other), key=len)
    close = get_close_matches(name, names, n=MOST_NAMES, cutoff=0.6)
    return list(dict.fromkeys([*containing, *close]))[:MOST_NAMES]


def _as_selector(metric: str, labels: Mapping[str, str]) -> str:
    matchers = (Matcher(name, "=", value) for name, value in sorted(labels.items()))
    return str(Selector((Matcher(METRIC_NAME_LABEL, "=", metric), *matchers)))
