"""A small installation with a past: two scripted targets, a machine, a node, and what a few minutes leave behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert, select, update

from aggregator.collectors.protocol import Target
from aggregator.exposition.series import Kind, SeriesKey
from aggregator.rollups.buckets import milliseconds
from aggregator.storage import registry, tables
from tests.installation import Installation, settings_for

GIGABYTE = 1e9


@pytest.fixture
def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def installation(database_url: str, tmp_path: Path, now: datetime) -> Iterator[Installation]:
    """Six minutes of samples, rolled up, with a beat, a worker and a collection that ended well a moment ago."""
    made = Installation(database_url, now, settings_for(tmp_path))
    with closing(made):
        fill(made, now)
        yield made


def fill(made: Installation, now: datetime) -> None:
    targets = made.targets(2)
    for number, target in enumerate(targets):
        for step in range(24):
            at = milliseconds(now) - (24 - step) * 15_000
            labels = tuple(sorted((*target.labels, ("path", "/a"))))
            values = {
                SeriesKey("up", tuple(sorted(target.labels)), Kind.GAUGE): 1.0,
                SeriesKey("temperature", labels, Kind.GAUGE): 10.0 * number + step,
                SeriesKey("requests_total", labels, Kind.COUNTER): 30.0 * step,
            }
            made.collect(target, {at: values})
    made.collect(host_target(made), host_samples(now))
    made.roll_up()
    made.database.run(lambda connection: _mark(connection, now))


def host_target(made: Installation) -> Target:
    """The machine that source `host` observes."""
    labels = (("instance", "machine"), ("job", "host"))

    def work(connection: Connection) -> Target:
        source_id = connection.execute(select(tables.sources.c.id).where(tables.sources.c.name == "host")).scalar_one()
        registry.sync_targets(
            connection, source_id, [registry.TargetEntry("machine", labels)], now=made.now
        )
        target_id = connection.execute(
            select(tables.targets.c.id).where(tables.targets.c.address == "machine")
        ).scalar_one()
        return Target(target_id, "machine", labels)

    return made.database.run(work)


def host_samples(now: datetime) -> dict[int, dict[SeriesKey, float]]:
    def key(metric: str, kind: Kind = Kind.GAUGE, **labels: str) -> SeriesKey:
        return SeriesKey(metric, tuple(sorted({**labels, "instance": "machine", "job": "host"}.items())), kind)

    def frame(idle: float, user: float) -> dict[SeriesKey, float]:
        return {
            key("up"): 1.0,
            key("node_load1"): 0.75,
            key("node_cpu_seconds_total", Kind.COUNTER, cpu="0", mode="idle"): idle,
            key("node_cpu_seconds_total", Kind.COUNTER, cpu="0", mode="user"): user,
            key("node_memory_MemTotal_bytes"): 4 * GIGABYTE,
            key("node_memory_MemAvailable_bytes"): 3 * GIGABYTE,
            key("node_filesystem_size_bytes", device="a", mountpoint="/"): 10 * GIGABYTE,
            key("node_filesystem_avail_bytes", device="a", mountpoint="/"): 4 * GIGABYTE,
        }

    return {milliseconds(now) - 5_000: frame(100.0, 50.0), milliseconds(now): frame(104.0, 51.0)}


def _mark(connection: Connection, now: datetime) -> None:
    connection.execute(
        insert(tables.wakes).values(job="rollup", slot=now, woken_at=now, slots_missed=4)
    )
    registry.see_node(
        connection,
        "test",
        now=now,
        started_at=now - timedelta(minutes=6),
        config_hash="abc",
        version="0.1",
        exporter_url="http://127.0.0.1:9811/metrics",
    )
    # Only the two sources with samples go on, so that nothing is stale.
    names = ("scripted", "host")
    connection.execute(update(tables.sources).where(tables.sources.c.name.not_in(names)).values(active=False))
    connection.execute(
        update(tables.summaries).values(
            value=[{"instance": "t0", "value": 1.5}],
            as_of=now,
            computed_at=now,
            tier="1m",
            completeness=1.0,
            is_final=False,
            version=3,
        )
    )
