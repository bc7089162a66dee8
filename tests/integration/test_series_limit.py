"""A source's budget of series: what is beyond it is refused as a whole, and what was there goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import func, select

from aggregator.collectors.outcome import report_keys
from aggregator.collectors.protocol import Batch, Collected, Target
from aggregator.exposition.series import Kind, SeriesKey
from aggregator.stages.collect.store import FrameStore, Stored
from aggregator.storage import claims, engine, registry, tables
from aggregator.storage.engine import Connection, Database
from aggregator.storage.series import register
from tests.installation import LONG, Installation

START = datetime(2026, 3, 1, 10, tzinfo=UTC)
#: Series of our own that each target has beyond the budget, when all of its collections failed.
REPORTED = 3


@pytest.fixture
def begun(installation: Installation) -> Installation:
    installation.now = START
    return installation


def collected(target: Target, numbers: range, at: datetime) -> Collected:
    """A collection with the report and one gauge for each number."""
    gauges = tuple(SeriesKey("g", (*target.labels, ("n", str(number))), Kind.GAUGE) for number in numbers)
    keys = (*report_keys(target), *gauges)
    return Collected(target, at, 0.01, (Batch(at, keys, np.ones(len(keys))),), samples=len(gauges))


def store(begun: Installation, target: Target, numbers: range, *, limit: int | None) -> Stored:
    begun.now += timedelta(seconds=15)

    def claim(connection: Connection) -> claims.Claim | None:
        return claims.claim(
            connection,
            shard_id=registry.ensure_intake(connection, begun.source_id),
            slot=begun.now,
            target_ids=[target.id],
            node="test",
            now=begun.now,
            lease=LONG,
            by_hand=True,
        )

    claimed = begun.database.run(claim)
    assert claimed is not None
    (stored,) = begun.store.store(
        claimed,
        [collected(target, numbers, begun.now)],
        source_id=begun.source_id,
        shard_id=None,
        clock=lambda: begun.now,
        series_limit=limit,
    )
    return stored


def registered(begun: Installation) -> int:
    statement = (
        select(func.count())
        .select_from(tables.series.join(tables.targets, tables.targets.c.id == tables.series.c.target_id))
        .where(tables.targets.c.source_id == begun.source_id)
    )
    with begun.database.engine.connect() as connection:
        return int(connection.execute(statement).scalar_one())


def test_a_scrape_that_brings_too_many_series_is_refused_as_a_whole(begun: Installation) -> None:
    first, second = begun.targets(2)
    assert store(begun, first, range(5), limit=10).collected.error is None
    refused = store(begun, first, range(8), limit=10)
    assert (refused.collected.reason, refused.collected.samples, refused.samples) == ("series_limit", 0, REPORTED)
    assert refused.rejected == {"series_limit": 8}
    assert refused.collected.batches[0].values[0] == 0  # up
    assert "3 series are new, but the source has 8 of at most 10" in (refused.collected.error or "")
    assert registered(begun) == 8
    # What stays within its old series goes on, and the other target may have what is left.
    assert store(begun, first, range(5), limit=10).collected.error is None
    other = store(begun, second, range(3), limit=10)
    assert other.collected.reason == "series_limit"
    assert registered(begun) == 8 + REPORTED  # that it is down can be told all the same
    assert store(begun, second, range(3), limit=14).collected.error is None


def test_without_a_limit_nothing_is_refused(begun: Installation) -> None:
    (target,) = begun.targets(1)
    assert store(begun, target, range(5_000), limit=None).collected.error is None
    assert registered(begun) == 5_000 + REPORTED


def test_series_of_other_sources_do_not_count(begun: Installation) -> None:
    """The database has sources of its own, whose series were registered by others."""
    (target,) = begun.targets(1)
    begun.database.run(
        lambda connection: connection.execute(
            tables.sources.update().where(tables.sources.c.id != begun.source_id).values(active=True)
        )
    )
    assert store(begun, target, range(7), limit=10).collected.error is None


def test_workers_that_register_at_the_same_time_do_not_exceed_it_together(
    begun: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty targets bring ten series each, from twenty connections at once, where there is room for sixty-five."""
    monkeypatch.setattr(engine, "LOCK_TIMEOUT", timedelta(seconds=60))  # the last one waits for all the others
    targets = begun.targets(20)
    barrier = threading.Barrier(len(targets))
    outcomes: list[str] = []

    def work(target: Target) -> Callable[[Connection], object]:
        keys = list(collected(target, range(7), START).batches[0].keys)
        return lambda connection: register(connection, target.id, keys, now=START, series_limit=65)

    def run(target: Target) -> None:
        database = Database.connect(begun.url, application="test")
        try:
            database.run(lambda connection: connection.execute(select(1)))
            barrier.wait(timeout=60)
            database.run(work(target))
            outcomes.append("ok")
        except Exception as error:  # noqa: BLE001 - counted by its kind
            outcomes.append(type(error).__name__)
        finally:
            database.dispose()

    threads = [threading.Thread(target=run, args=(target,)) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (outcomes.count("ok"), outcomes.count("SeriesLimitError")) == (6, 14)
    assert registered(begun) == 60


def test_the_store_of_another_process_keeps_to_it_too(begun: Installation) -> None:
    first, second = begun.targets(2)
    assert store(begun, first, range(5), limit=10).collected.error is None
    begun.store = FrameStore(begun.database)  # which has nothing in its memory
    assert store(begun, first, range(5), limit=8).collected.error is None
    assert store(begun, second, range(1), limit=8).collected.reason == "series_limit"
