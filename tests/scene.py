"""Scripts on a real database: sources of their own for each, and every row of every tier beside the oracle."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

import numpy as np
from sqlalchemy import func, select, text

from aggregator.collectors.protocol import Batch, Collected, Target
from aggregator.exposition.series import Kind, SeriesKey
from aggregator.rollups.buckets import from_milliseconds
from aggregator.stages.collect.store import FrameStore
from aggregator.stages.rollup import Rollup
from aggregator.storage import claims, registry, tables
from aggregator.storage.engine import Connection, Database
from tests import oracle
from tests.arrivals import Arrival, Script, Series

INTERVAL_SECONDS = 15
OFFSET_SECONDS = 2
LOOKBACK_MS = 300_000
#: The tiers by their level above the finest.
STEPS_MS = {"metrics_1m": 60_000, "metrics_5m": 300_000, "metrics_1h": 3_600_000, "metrics_1d": 86_400_000}
LEASE = timedelta(minutes=5)
#: Long enough for every open bucket to end.
LATER = timedelta(days=2)

Identity = tuple[str, str, datetime]


@dataclass(frozen=True)
class Scene:
    """A script whose targets are those of two sources, hence of two shards."""

    name: str
    script: Script
    source_ids: tuple[int, int]
    targets: tuple[Target, ...]

    @classmethod
    def make(cls, database: Database, script: Script, *, name: str) -> Self:
        """Make the sources and targets; `name` is part of every metric's name, so that scenes can share a database."""

        def work(connection: Connection) -> Self:
            sources = (_make_source(connection, f"{name}_a"), _make_source(connection, f"{name}_b"))
            targets = tuple(
                _make_target(connection, sources[place % 2], f"{name}-{place}") for place in range(script.targets)
            )
            return cls(name, script, sources, targets)

        return database.run(work)

    def key(self, series: Series) -> SeriesKey:
        """The key that a collector hands out for a series."""
        return SeriesKey(f"{series.name}_{self.name}", self.targets[series.target].labels, series.kind)

    def collected(self, arrival: Arrival) -> Collected:
        """An arrival as a collector gives it."""
        target = self.targets[arrival.target]
        batches = tuple(
            Batch(
                from_milliseconds(at),
                tuple(self.key(self.script.series[number]) for number in values),
                np.array(list(values.values()), dtype=np.float64),
            )
            for at, values in sorted(arrival.values.items())
        )
        return Collected(target, batches[0].at, 0.01, batches, samples=len(batches))

    def store(self, arrival: Arrival, store: FrameStore, *, now: datetime) -> None:
        """Store one arrival as a collection asked for by hand."""
        source_id = self.source_ids[arrival.target % 2]
        collected = self.collected(arrival)

        def work(connection: Connection) -> claims.Claim | None:
            return claims.claim(
                connection,
                shard_id=registry.ensure_intake(connection, source_id),
                slot=now + timedelta(microseconds=random.randrange(10**9)),  # noqa: S311 - nobody else's, most likely
                target_ids=[collected.target.id],
                node="test",
                now=now,
                lease=LEASE,
                by_hand=True,
            )

        while (claimed := store.database.run(work)) is None:
            pass  # the answer to a COMMIT was lost, and the slot with it
        (stored,) = store.store(claimed, [collected], source_id=source_id, shard_id=None, clock=lambda: now)
        assert set(stored.rejected) <= {"replaced"}

    def expected(self) -> dict[str, dict[Identity, dict[str, oracle.Expected]]]:
        """By view, what every row must hold; there are no others."""
        found: dict[str, dict[Identity, dict[str, oracle.Expected]]] = {}
        for level, (view, step_ms) in enumerate(STEPS_MS.items()):
            rows = found.setdefault(view, {})
            for series in self.script.series:
                for start_ms in {at // step_ms * step_ms for at in series.samples}:
                    identity = self.key(series).metric, f"{self.name}-{series.target}", from_milliseconds(start_ms)
                    rows[identity] = expected_row(series, start_ms, start_ms + step_ms, level=level)
        return found

    def rows(self, database: Database, view: str) -> dict[Identity, dict[str, object]]:
        """The rows that a view has of this scene's series."""
        metrics = sorted({self.key(series).metric for series in self.script.series})
        statement = text(f"SELECT * FROM aggregator.{view} WHERE metric = ANY(:metrics)")  # noqa: S608 - ours
        with database.engine.connect() as connection:
            found = connection.execute(statement, {"metrics": metrics}).mappings().all()
        return {(row["metric"], row["instance"], row["time"]): dict(row) for row in found}

    def assert_equals_oracle(self, database: Database) -> None:
        """Every column of every tier is what it must be, there are no other rows, and nothing is left to be done."""
        for view, expected in self.expected().items():
            rows = self.rows(database, view)
            assert set(rows) == set(expected), view
            wrong = {
                identity: found
                for identity, row in rows.items()
                if (found := oracle.wrong_columns(row, expected[identity]))
            }
            assert not wrong, (view, wrong)
        assert marks_left(database) == 0


def expected_row(series: Series, start_ms: int, end_ms: int, *, level: int) -> Mapping[str, oracle.Expected]:
    """What the row of a series in a bucket must hold."""
    samples = series.samples.items()
    if series.kind is Kind.COUNTER:
        row = oracle.counter_row(samples, start_ms, end_ms, level=level, lookback_ms=LOOKBACK_MS)
    else:
        row = oracle.gauge_row(samples, start_ms, end_ms, level=level)
    count = int(row["count"].value or 0)
    row["completeness"] = oracle.completeness(
        count, start_ms, end_ms, interval_ms=INTERVAL_SECONDS * 1_000, offset_ms=OFFSET_SECONDS * 1_000
    )
    return row


def roll_up_all(rollup: Rollup, *, now: datetime) -> None:
    """Roll up until no bucket is left."""
    rollup.run(lambda: now + LATER, budget=LEASE)


def marks_left(database: Database) -> int:
    """How many rows the ledger has."""
    statement = select(func.count()).select_from(tables.dirty)
    return database.run(lambda connection: connection.execute(statement).scalar_one())


def _make_source(connection: Connection, name: str) -> int:
    statement = tables.sources.insert().values(
        name=name,
        kind="prometheus",
        definition={},
        interval_seconds=INTERVAL_SECONDS,
        offset_seconds=OFFSET_SECONDS,
        active=True,
        published_at=datetime.now(UTC),
        published_by="test",
    )
    source_id = int(connection.execute(statement.returning(tables.sources.c.id)).scalar_one())
    registry.ensure_intake(connection, source_id)
    return source_id


def _make_target(connection: Connection, source_id: int, instance: str) -> Target:
    labels = (("instance", instance), ("job", "scripted"))
    statement = tables.targets.insert().values(
        source_id=source_id, address=instance, labels=dict(labels), active=True, created_at=datetime.now(UTC)
    )
    return Target(int(connection.execute(statement.returning(tables.targets.c.id)).scalar_one()), instance, labels)
