"""Sealing is killed at each of its steps, or finds the disk full: nothing is lost, nothing is there twice."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text

from aggregator.embedded.postgres import EmbeddedPostgres
from aggregator.embedded.wheels import postgres_binaries
from aggregator.exposition.series import Kind
from aggregator.rollups.buckets import milliseconds
from aggregator.stages.maintain.sealing import Sealing
from aggregator.storage import catalog
from aggregator.storage.engine import Database
from tests.effort import examples
from tests.installation import Installation, series_key, settings_for
from tests.lives import APPLICATION, CONTEXT, connected
from tests.sessions import wait_until_gone
from tests.small_disk import fill, small_disk

START = datetime(2026, 3, 1, 8, tzinfo=UTC)
CLOSED = START + timedelta(hours=4, minutes=5)
BUCKETS = 240
MEGABYTE = 1_000_000
Row = tuple[object, ...]


def seal(database: Database) -> None:
    installation = database.run(catalog.read_installation)
    Sealing(database, installation, lambda: CLOSED).run()


def seal_and_die(url: str, dies_at: int) -> None:
    """Seal in a process that is killed at a step."""
    with connected(url, dies_at) as database:
        seal(database)


def rows(installation: Installation) -> list[Row]:
    """All rows of the finest tier and all samples as people read them."""
    columns = "metric, time, count, sum, min, max, first, last, stddev, increase, rate, completeness, is_final"
    rollups = text(f"SELECT {columns} FROM aggregator.metrics_1m ORDER BY 1, 2")  # noqa: S608 - names of ours
    samples = text("SELECT metric, time, value FROM aggregator.samples ORDER BY 1, 2")
    with installation.database.engine.connect() as connection:
        return [tuple(row) for one in (rollups, samples) for row in connection.execute(one)]


def counted(installation: Installation, table: str) -> int:
    with installation.database.engine.connect() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM aggregator.{table}")).scalar_one())  # noqa: S608 - ours


def scrape(installation: Installation, series: int) -> None:
    """A span of numbers that do not pack, rolled up."""
    (target,) = installation.targets(1)
    keys = [series_key(f"g{place}", 0, Kind.GAUGE) for place in range(series)]
    walks = np.random.default_rng(3).normal(size=(BUCKETS, series)).cumsum(axis=0)
    installation.now = CLOSED
    samples = {
        milliseconds(START + place * timedelta(minutes=1)): dict(zip(keys, line, strict=True))
        for place, line in enumerate(walks.tolist())
    }
    installation.collect(target, samples)
    installation.roll_up()


def test_a_kill_at_any_step_leaves_every_rollup_once(installation: Installation) -> None:
    """At every seventh step, and with more effort at each."""
    scrape(installation, 2)
    before = rows(installation)
    assert len(before) == 2 * 2 * BUCKETS
    stride = max(1, 7 // examples(1))
    for dies_at in itertools.count(0, stride):
        wait_until_gone(installation.url, APPLICATION)
        process = CONTEXT.Process(target=seal_and_die, args=(installation.url, dies_at), daemon=True)
        process.start()
        process.join(timeout=300)
        assert process.exitcode in (0, -signal.SIGKILL)
        assert rows(installation) == before, f"killed at step {dies_at}"
        if process.exitcode == 0:
            break
    assert dies_at > 20
    assert counted(installation, "sealed_1m") == 2
    assert counted(installation, "rollup_1m") == 0
    assert counted(installation, "sample_frame") == 0


@pytest.fixture
def disk(open_directory: Path) -> Iterator[Path]:
    with small_disk(open_directory / "small") as place:
        yield place


def test_a_full_disk_leaves_what_does_not_fit_open(disk: Path, tmp_path: Path) -> None:
    with (
        EmbeddedPostgres(disk / "pg", binaries=postgres_binaries(), port=None, fsync=False) as server,
        closing(Installation(server.url, START, settings_for(tmp_path))) as installation,
    ):
        scrape(installation, 400)
        before = rows(installation)
        filler = fill(disk, but=MEGABYTE)
        seal(installation.database)
        assert counted(installation, "rollup_1m") > 0
        filler.unlink()
        assert rows(installation) == before
        seal(installation.database)
        assert counted(installation, "rollup_1m") == 0
        assert rows(installation) == before
