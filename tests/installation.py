"""A published installation in a fresh database, with collections that a test scripts sample by sample."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from sqlalchemy import select, text

from aggregator.collectors.protocol import Batch, Collected, Target
from aggregator.config.load import load_settings
from aggregator.config.model import Settings
from aggregator.exposition.series import Kind, SeriesKey
from aggregator.rollups.buckets import from_milliseconds, milliseconds
from aggregator.stages.collect.store import FrameStore, Stored
from aggregator.stages.rollup import Rollup
from aggregator.storage import claims, registry, tables
from aggregator.storage.bootstrap import bring_up
from aggregator.storage.engine import Connection, Database

LONG = timedelta(minutes=5)


def settings_for(tmp_path: Path, **environment: str) -> Settings:
    """The default settings of a node named `test`, with variables of ours only."""
    variables = {"HOME": str(tmp_path), "AGGREGATOR_NODE": "test", **environment}
    return load_settings(environment=variables)


def series_key(metric: str, target: int, kind: Kind) -> SeriesKey:
    """A series of one of the scripted targets."""
    return SeriesKey(metric, (("instance", f"t{target}"), ("job", "scripted")), kind)


@dataclass
class Installation:
    """A database with one source, `scripted`, and what a test does with it at times of its own choice."""

    url: str
    now: datetime
    settings: Settings
    is_brought_up: bool = False
    database: Database = field(init=False)
    _slots: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        if not self.is_brought_up:
            bring_up(self.url, self.settings, now=self.now)
        self.database = Database.connect(self.url, application="test")
        self.store = FrameStore(self.database)
        self.rollup = Rollup(self.database, "test")
        self.source_id = self.database.run(self._make_source)

    @staticmethod
    def _make_source(connection: Connection) -> int:
        statement = tables.sources.insert().values(
            name="scripted",
            kind="prometheus",
            definition={},
            interval_seconds=15,
            offset_seconds=2,
            active=True,
            published_at=datetime.now(UTC),
            published_by="test",
        )
        return int(connection.execute(statement.returning(tables.sources.c.id)).scalar_one())

    def targets(self, count: int) -> list[Target]:
        """Targets t0, t1, ... of the source."""
        entries = [
            registry.TargetEntry(f"http://t{place}/metrics", (("instance", f"t{place}"), ("job", "scripted")))
            for place in range(count)
        ]

        def work(connection: Connection) -> list[Target]:
            registry.sync_targets(connection, self.source_id, entries, now=self.now)
            registry.ensure_intake(connection, self.source_id)
            rows = connection.execute(
                select(tables.targets).where(tables.targets.c.source_id == self.source_id).order_by(tables.targets.c.id)
            )
            return [Target(row.id, row.address, tuple(sorted(row.labels.items()))) for row in rows]

        return self.database.run(work)

    def collect(self, target: Target, samples: Mapping[int, Mapping[SeriesKey, float]]) -> Stored:
        """Store samples of one target, by millisecond and series, as one collection asked for by hand."""
        batches = [
            Batch(from_milliseconds(at), tuple(values), np.array(list(values.values()), dtype=np.float64))
            for at, values in sorted(samples.items())
        ]
        collected = Collected(target, batches[0].at, 0.01, tuple(batches), samples=len(batches))
        return self.collect_all([collected])[0]

    def collect_two(self, target: Target, at: datetime, **values: float) -> Stored:
        """Store `g`, a gauge, and `c`, the counter `c_total`, of the first target at one instant."""
        keys = {"g": series_key("g", 0, Kind.GAUGE), "c": series_key("c_total", 0, Kind.COUNTER)}
        return self.collect(target, {milliseconds(at): {keys[name]: value for name, value in values.items()}})

    def marks(self) -> list[tuple[str, datetime, int | None]]:
        """The ledger: tier, bucket and target of each row, finer tiers first."""
        statement = (
            select(tables.tiers.c.name, tables.dirty.c.bucket, tables.dirty.c.target_id)
            .join(tables.tiers, tables.tiers.c.id == tables.dirty.c.tier_id)
            .order_by(tables.tiers.c.step_seconds, tables.dirty.c.bucket)
        )
        with self.database.engine.connect() as connection:
            return [(row.name, row.bucket, row.target_id) for row in connection.execute(statement)]

    def collect_all(self, collected: Sequence[Collected]) -> list[Stored]:
        """Store collections in one transaction."""

        def work(connection: Connection) -> claims.Claim | None:
            shard_id = registry.ensure_intake(connection, self.source_id)
            return claims.claim(
                connection,
                shard_id=shard_id,
                slot=self.now + timedelta(microseconds=next(self._slots)),
                target_ids=[one.target.id for one in collected],
                node="test",
                now=self.now,
                lease=LONG,
                by_hand=True,
            )

        claimed = self.database.run(work)
        assert claimed is not None
        return self.store.store(claimed, collected, source_id=self.source_id, shard_id=None, clock=lambda: self.now)

    def roll_up(self) -> int:
        """Roll up all that is due now; gives the rows written."""
        return self.rollup.run(lambda: self.now, budget=LONG)

    def rows(self, view: str) -> dict[tuple[str, str, datetime], dict[str, object]]:
        """All rows of a view by (metric, instance, time), without where they lie."""
        with self.database.engine.connect() as connection:
            found = connection.execute(text(f"SELECT * FROM aggregator.{view}")).mappings().all()  # noqa: S608 - ours
        return {
            (row["metric"], row["instance"], row["time"]): {name: row[name] for name in row if name != "span"}
            for row in found
        }

    def close(self) -> None:
        """Close the connection."""
        self.database.dispose()
