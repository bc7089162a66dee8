"""The health of sources and targets: who answers, since when, and which slots nobody collected."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import Connection, bindparam, func, select, text

from aggregator.storage import tables

if TYPE_CHECKING:
    from collections.abc import Mapping

#: A node that was not heard of for so long is gone, and what it alone can read is unknown.
NODE_GONE_AFTER = timedelta(seconds=90)


@dataclass(frozen=True)
class TargetHealth:
    """One endpoint. `is_up` None: not collected yet, or its node is gone."""

    source_id: int
    source: str
    job: str
    instance: str
    is_up: bool | None
    since: datetime | None
    last_error: str | None
    last_error_at: datetime | None


@dataclass(frozen=True)
class SourceHealth:
    """A source with what its targets say together; `last_success` is the start of the newest that succeeded."""

    name: str
    kind: str
    interval_seconds: float
    published_at: datetime
    targets: int
    up: int
    down: int
    series: int
    last_success: datetime | None
    slots_missed: int
    last_error: str | None
    last_error_at: datetime | None

    @property
    def unknown(self) -> int:
        """How many targets are neither known to be up nor down."""
        return self.targets - self.up - self.down


_TARGETS = text(
    """
    SELECT t.source_id, s.name, t.labels ->> 'job', t.labels ->> 'instance',
        CASE WHEN n.last_seen <= :gone THEN NULL ELSE t.is_up END,
        t.state_since, t.last_error, t.last_error_at
    FROM aggregator.targets AS t
    JOIN aggregator.sources AS s ON s.id = t.source_id
    LEFT JOIN aggregator.nodes AS n ON n.id = t.node_id
    WHERE t.active AND s.active
    ORDER BY s.name, t.labels ->> 'instance', t.id
    """
)


def targets_of(connection: Connection, *, now: datetime) -> tuple[TargetHealth, ...]:
    """All active targets of active sources, by source and instance."""
    rows = connection.execute(_TARGETS, {"gone": now - NODE_GONE_AFTER})
    return tuple(TargetHealth(*row) for row in rows)


def series_counts(connection: Connection) -> dict[int, int]:
    """How many series are registered, by source id. Reads all of `series`: keep the answer."""
    statement = (
        select(tables.targets.c.source_id, func.count())
        .join_from(tables.series, tables.targets, tables.targets.c.id == tables.series.c.target_id)
        .group_by(tables.targets.c.source_id)
    )
    return dict(connection.execute(statement).all())


# Uses index: collections_pkey, backwards from where a success can be: where all targets of a shard are down, the newest
# success lies before the last of them went down, however long ago that was.
_LAST_SUCCESSES = text(
    """
    SELECT sh.source_id, max(newest.started_at)
    FROM aggregator.shards AS sh
    JOIN aggregator.sources AS s ON s.id = sh.source_id AND s.active
    CROSS JOIN LATERAL (
        SELECT CASE
            WHEN sh.is_intake OR bool_or(t.is_up) THEN CAST('infinity' AS timestamptz)
            ELSE max(t.state_since) + make_interval(secs => 2 * s.interval_seconds)
        END AS latest
        FROM aggregator.targets AS t WHERE t.shard_id = sh.id
    ) AS bound
    CROSS JOIN LATERAL (
        SELECT c.started_at FROM aggregator.collections AS c
        WHERE c.shard_id = sh.id AND c.slot <= bound.latest AND 1 = ANY (c.outcome)
            AND (NOT sh.is_intake OR c.slot > :now - make_interval(secs => greatest(600, 2 * s.interval_seconds)))
        ORDER BY c.slot DESC LIMIT 1
    ) AS newest
    GROUP BY sh.source_id
    """
)


def last_successes(connection: Connection, *, now: datetime) -> dict[int, datetime]:
    """When the newest collection with a success began, by source id; a source without any is left out."""
    return dict(connection.execute(_LAST_SUCCESSES, {"now": now}).all())


# The slot that is due now may still be on its way: it is not missed before the next one is due.
_SLOTS_MISSED = text(
    """
    SELECT sh.source_id, CAST(sum(ss.slots_missed + CASE
        WHEN s.active AND EXISTS (SELECT FROM aggregator.targets AS t WHERE t.shard_id = sh.id AND t.active)
        THEN greatest(0, floor(
            (extract(epoch FROM :now - ss.last_slot) - s.offset_seconds) / s.interval_seconds
        ) - 1)
        ELSE 0
    END) AS bigint)
    FROM aggregator.shard_slots AS ss
    JOIN aggregator.shards AS sh ON sh.id = ss.shard_id
    JOIN aggregator.sources AS s ON s.id = sh.source_id
    WHERE NOT sh.is_intake
    GROUP BY sh.source_id
    """
).bindparams(bindparam("now", type_=tables.nodes.c.last_seen.type))


def slots_missed(connection: Connection, *, now: datetime) -> dict[int, int]:
    """Slots that no worker ever claimed, by source id: those counted, and those that fell due since the last claim."""
    return dict(connection.execute(_SLOTS_MISSED, {"now": now}).all())


def sources_of(
    connection: Connection,
    targets: tuple[TargetHealth, ...],
    *,
    series: Mapping[int, int],
    last_success: Mapping[int, datetime],
    missed: Mapping[int, int],
) -> tuple[SourceHealth, ...]:
    """All active sources by name, with what was found out of each."""
    table = tables.sources
    by_source: dict[int, list[TargetHealth]] = {}
    for target in targets:
        by_source.setdefault(target.source_id, []).append(target)
    found = []
    for row in connection.execute(select(table).where(table.c.active).order_by(table.c.name)):
        own = by_source.get(row.id, [])
        worst = max(own, key=_urgency, default=None)
        found.append(
            SourceHealth(
                name=row.name,
                kind=row.kind,
                interval_seconds=row.interval_seconds,
                published_at=row.published_at,
                targets=len(own),
                up=sum(target.is_up is True for target in own),
                down=sum(target.is_up is False for target in own),
                series=series.get(row.id, 0),
                last_success=last_success.get(row.id),
                slots_missed=missed.get(row.id, 0),
                last_error=worst.last_error if worst else None,
                last_error_at=worst.last_error_at if worst else None,
            )
        )
    return tuple(found)


def _urgency(target: TargetHealth) -> tuple[bool, float]:
    """What is down now comes before what was; then the newest error."""
    at = target.last_error_at.timestamp() if target.last_error and target.last_error_at else float("-inf")
    return target.is_up is False, at
