"""The health of tiers: how fresh their newest bucket is, and what waits to be rolled up."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Row, bindparam, func, select, text

from aggregator.storage import tables
from aggregator.storage.sealed_spans import MOST_BUCKETS
from aggregator.storage.stored_buckets import newest_of

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Backlog:
    """Ledger rows of one tier: how many, and when the oldest fell due; live and backfill apart."""

    live_rows: int = 0
    live_due: datetime | None = None
    backfill_rows: int = 0
    backfill_due: datetime | None = None


@dataclass(frozen=True)
class StoredTier:
    """What is stored of an active tier."""

    id: int
    name: str
    step_seconds: float
    verify_mismatches: int = 0


@dataclass(frozen=True)
class TierHealth:
    """A tier: the start of its newest bucket, and how long its oldest due work has waited (seconds, 0: none waits).

    `verify_mismatches`: values that daily verifications have found to be wrong, since the tier was made.
    """

    name: str
    step_seconds: float
    newest_bucket: datetime | None
    lag_seconds: float
    backfill_lag_seconds: float
    live_rows: int
    backfill_rows: int
    verify_mismatches: int = 0

    @classmethod
    def of(
        cls, tier: StoredTier, backlog: Backlog | None, *, newest_bucket: datetime | None, now: datetime
    ) -> TierHealth:
        """The health of a tier at an instant."""
        backlog = backlog or Backlog()
        return cls(
            name=tier.name,
            step_seconds=tier.step_seconds,
            newest_bucket=newest_bucket,
            lag_seconds=_age_seconds(backlog.live_due, now),
            backfill_lag_seconds=_age_seconds(backlog.backfill_due, now),
            live_rows=backlog.live_rows,
            backfill_rows=backlog.backfill_rows,
            verify_mismatches=tier.verify_mismatches,
        )


def _age_seconds(due: datetime | None, now: datetime) -> float:
    return max(0.0, (now - due).total_seconds()) if due else 0.0


def tiers_of(connection: Connection) -> tuple[StoredTier, ...]:
    """The active tiers, finest first."""
    table = tables.tiers
    statement = select(table.c.id, table.c.name, table.c.step_seconds, table.c.verify_mismatches).where(table.c.active)
    return tuple(StoredTier(*row) for row in connection.execute(statement.order_by(table.c.step_seconds, table.c.id)))


def backlogs(connection: Connection) -> dict[int, Backlog]:
    """What waits in the ledger, by tier id. Reads all of it: after an outage keep the answer."""
    table = tables.dirty
    statement = select(
        table.c.tier_id, table.c.backfill, func.count().label("rows"), func.min(table.c.due).label("due")
    ).group_by(table.c.tier_id, table.c.backfill)
    live: dict[int, Row[tuple[int, bool, int, datetime]]] = {}
    backfill: dict[int, Row[tuple[int, bool, int, datetime]]] = {}
    for row in connection.execute(statement):
        (backfill if row.backfill else live)[row.tier_id] = row
    return {
        tier_id: Backlog(
            live_rows=live[tier_id].rows if tier_id in live else 0,
            live_due=live[tier_id].due if tier_id in live else None,
            backfill_rows=backfill[tier_id].rows if tier_id in backfill else 0,
            backfill_due=backfill[tier_id].due if tier_id in backfill else None,
        )
        for tier_id in live.keys() | backfill.keys()
    }


# Every collection, good or bad, writes `up`: its blocks have a row in every bucket, and there are few of them. Uses
# indexes series_metric_idx, rollup_pkey and clock_pkey; the tier and the instants stand in the text, so that planning
# prunes.
_NEWEST = text(
    f"""
    SELECT max(newest.bucket)
    FROM (
        SELECT DISTINCT s.block_id FROM aggregator.series AS s WHERE s.metric = 'up' AND s.block_id IS NOT NULL
    ) AS reported
    CROSS JOIN LATERAL ({newest_of("reported.block_id")}) AS newest
    """  # noqa: S608 - text of our own
).bindparams(*(bindparam(name, type_=tables.nodes.c.last_seen.type) for name in ("since", "until", "first_span")))


_FOREVER = datetime.max.replace(tzinfo=UTC)


def newest_buckets(connection: Connection, tiers: Sequence[StoredTier], *, now: datetime) -> dict[int, datetime | None]:
    """The start of the newest bucket that any shard has, by tier id; None where there is none yet."""
    return {tier.id: _newest_bucket(connection, tier, now=now) for tier in tiers}


def _newest_bucket(connection: Connection, tier: StoredTier, *, now: datetime) -> datetime | None:
    """Looks into the newest partitions first, and into all only where these hold nothing."""
    recent = now - timedelta(seconds=3 * tier.step_seconds, days=1)
    ever = datetime.min.replace(tzinfo=now.tzinfo)
    longest_span = timedelta(seconds=tier.step_seconds * MOST_BUCKETS)
    for since, first_span in ((recent, recent - longest_span), (ever, ever)):
        where = {"tier_id": tier.id, "since": since, "first_span": first_span, "until": _FOREVER}
        newest: datetime | None = connection.execute(_NEWEST, where).scalar_one()
        if newest is not None:
            return newest
    return None
