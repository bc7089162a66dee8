"""Which buckets `verify` looks at: some at random, at the price of reading a few pages of a few partitions."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, TextClause, bindparam, text, update

from aggregator.storage import tables
from aggregator.storage.catalog import Installation
from aggregator.storage.partitions import SAMPLES, SEALED_SAMPLES, Partition, Partitioned, existing
from aggregator.storage.sealed_columns import element
from aggregator.storage.sealed_sample_sql import SPAN, instants
from aggregator.storage.tables import SCHEMA

#: Pages to be read for each row that is wanted: a page may hold none of the rows that are asked for.
_PAGES_PER_PICK = 4
#: Besides: with this many expected, no page at all is less likely than one in a million.
_MORE_PAGES = 16
#: A shorter part of a partition is not worth reading more of it.
_LEAST_SHARE = 0.001


@dataclass(frozen=True, order=True)
class Pick:
    """One bucket of one tier of one shard."""

    shard_id: int
    tier_id: int
    bucket: datetime


@dataclass(frozen=True)
class Within:
    """The half-open interval (UTC) that is looked at; None is open."""

    since: datetime | None = None
    until: datetime | None = None

    def holds_any(self, partition: Partition) -> bool:
        """Whether the partition reaches into the interval."""
        begins = self.until is None or partition.start < self.until
        return begins and (self.since is None or partition.end > self.since)

    def share_of(self, partition: Partition) -> float:
        """How much of the partition's time lies in the interval, above 0 to 1."""
        start = partition.start if self.since is None else max(self.since, partition.start)
        end = partition.end if self.until is None else min(self.until, partition.end)
        return max((end - start) / (partition.end - partition.start), _LEAST_SHARE)

    @property
    def parameters(self) -> dict[str, datetime | None]:
        """As parameters of a statement."""
        return {"since": self.since, "until": self.until}


@dataclass(frozen=True)
class Kept:
    """A partition that holds anything, and how many pages it has."""

    partition: Partition
    pages: int


_PAGES = text(
    """
    SELECT child.relname AS name, pg_relation_size(child.oid) / current_setting('block_size')::bigint AS pages
    FROM pg_inherits JOIN pg_class AS child ON child.oid = pg_inherits.inhrelid
    WHERE pg_inherits.inhparent = to_regclass(:parent)
    """
)


def kept_partitions(connection: Connection, partitioned: Partitioned, *, within: Within) -> list[Kept]:
    """The partitions that hold anything and reach into the interval, oldest first."""
    pages = {row.name: row.pages for row in connection.execute(_PAGES, {"parent": f'{SCHEMA}."{partitioned.table}"'})}
    found = (Kept(partition, pages.get(partition.name, 0)) for partition in existing(connection, partitioned))
    return [kept for kept in found if kept.pages and within.holds_any(kept.partition)]


def pick_buckets(connection: Connection, installation: Installation, *, size: int, within: Within) -> list[Pick]:
    """About `size` buckets at random, of all tiers alike and of old partitions as well as of young ones; sorted.

    Some are picked by their samples instead of by a rollup, which finds one that is missing.
    """
    share = -(-size // (len(installation.tiers) + len(installation.finest)))
    picks: set[Pick] = set()
    for tier in installation.tiers:
        statements = {tier.partitions: _ROLLUPS}
        if tier.spans is not None:
            statements[tier.sealed_partitions[0]] = _SEALED
        rows = _some_rows(connection, statements, size=share, within=within)
        picks.update(Pick(shard_id, tier.id, bucket) for shard_id, bucket in rows)
    for tier in installation.finest:
        statements = {SAMPLES: _FRAMES, SEALED_SAMPLES[-1]: _SEALED_FRAMES}
        rows = _some_rows(connection, statements, size=share, within=within)
        picks.update(Pick(shard_id, tier.id, tier.ladder.start_of(at)) for shard_id, at in rows)
    chosen = sorted(picks)
    return sorted(random.sample(chosen, size)) if len(chosen) > size else chosen


# TABLESAMPLE SYSTEM reads whole pages, and only those that it chooses.
_ROLLUPS = """
SELECT b.shard_id, r.bucket
FROM (
    SELECT bucket, block_id FROM aggregator."{name}" TABLESAMPLE SYSTEM ({percent})
    WHERE (:since IS NULL OR bucket >= :since) AND (:until IS NULL OR bucket < :until)
    ORDER BY random() LIMIT :count
) AS r JOIN aggregator.blocks AS b ON b.id = r.block_id
"""
# One bucket of each row: a place that has samples.
_SEALED = f"""
SELECT b.shard_id, chosen.bucket
FROM aggregator."{{name}}" AS r TABLESAMPLE SYSTEM ({{percent}})
JOIN aggregator.clock AS c
    ON c.tier_id = r.tier_id AND c.block_id = r.block_id AND c.start = r.start AND c.clock = r.clock
JOIN aggregator.blocks AS b ON b.id = r.block_id
CROSS JOIN LATERAL (
    SELECT r.start + place * make_interval(secs => c.step_ms / 1000.0) AS bucket
    FROM generate_series(0, c.buckets - 1) AS place
    WHERE {element("c", "count", "place")} > 0
    ORDER BY random(), r.position LIMIT 1
) AS chosen
WHERE (:since IS NULL OR chosen.bucket >= :since) AND (:until IS NULL OR chosen.bucket < :until)
ORDER BY random() LIMIT :count
"""  # noqa: S608 - text of our own
_FRAMES = """
SELECT t.shard_id, f.at
FROM (
    SELECT at, target_id FROM aggregator."{name}" TABLESAMPLE SYSTEM ({percent})
    WHERE (:since IS NULL OR at >= :since) AND (:until IS NULL OR at < :until)
    ORDER BY random() LIMIT :count
) AS f JOIN aggregator.targets AS t ON t.id = f.target_id
WHERE t.shard_id IS NOT NULL
"""
# A clock has hundreds of instants: some of each, for there may be few clocks.
_SEALED_FRAMES = f"""
SELECT t.shard_id, picked.at
FROM (
    SELECT * FROM aggregator."{{name}}" TABLESAMPLE SYSTEM ({{percent}})
    WHERE (:since IS NULL OR start > :since - {SPAN}) AND (:until IS NULL OR start < :until)
    ORDER BY random() LIMIT :count
) AS c JOIN aggregator.targets AS t ON t.id = c.target_id
CROSS JOIN LATERAL (
    SELECT p.at FROM (SELECT) AS one {instants("c")}
    WHERE (:since IS NULL OR p.at >= :since) AND (:until IS NULL OR p.at < :until)
    ORDER BY random() LIMIT 8
) AS picked
WHERE t.shard_id IS NOT NULL
ORDER BY random() LIMIT :count
"""  # noqa: S608 - text of our own


def _some_rows(
    connection: Connection, statements: Mapping[Partitioned, str], *, size: int, within: Within
) -> list[tuple[int, datetime]]:
    """Shard and instant of about `size` rows of these tables, as many of each partition as of any other."""
    kept = [
        (one, statement)
        for partitioned, statement in statements.items()
        for one in kept_partitions(connection, partitioned, within=within)
    ]
    random.shuffle(kept)
    found: list[tuple[int, datetime]] = []
    for place, (one, statement) in enumerate(kept):
        count = size * (place + 1) // len(kept) - size * place // len(kept)
        if count:
            pages = (_PAGES_PER_PICK * count + _MORE_PAGES) / within.share_of(one.partition)
            query = statement.format(name=one.partition.name, percent=min(100.0, 100.0 * pages / one.pages))
            rows = connection.execute(_timed(query), {"count": count, **within.parameters})
            found += [(row[0], row[1]) for row in rows]
    return found


def _timed(statement: str) -> TextClause:
    instant = tables.dirty.c.bucket.type
    return text(statement).bindparams(bindparam("since", type_=instant), bindparam("until", type_=instant))


def add_mismatches(connection: Connection, by_tier: Mapping[str, int]) -> None:
    """Add what a verification found to the tiers' counters.

    Uses index: tiers_name_key.
    """
    table = tables.tiers
    for name, count in sorted(by_tier.items()):
        statement = update(table).values(verify_mismatches=table.c.verify_mismatches + count)
        connection.execute(statement.where(table.c.name == name))
