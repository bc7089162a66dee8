"""An older dump is restored in place, no connection is cut: what processes remember is of a database that is gone."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text

from aggregator.collectors.protocol import Batch, Collected, Target
from aggregator.embedded.wheels import postgres_binaries
from aggregator.exposition.series import Kind, SeriesKey
from aggregator.rollups.buckets import milliseconds
from aggregator.stages.collect.history import History, HistoryStore
from aggregator.stages.collect.store import FrameStore
from aggregator.stages.rollup import Rollup
from aggregator.storage.engine import Database
from tests.installation import LONG, Installation, series_key

START = datetime(2026, 3, 1, 8, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
NAMES = ("a", "b", "c", "d", "x", "y")
A, B, C, D, X, Y = (series_key(name, 0, Kind.GAUGE) for name in NAMES)
Values = dict[tuple[str, datetime], float]


@dataclass
class Process:
    """What one process remembers, on a connection of its own."""

    installation: Installation
    database: Database
    store: FrameStore = field(init=False)
    rollup: Rollup = field(init=False)

    def __post_init__(self) -> None:
        self.store, self.rollup = FrameStore(self.database), Rollup(self.database, "test")

    def collect(self, target: Target, keys: tuple[SeriesKey, ...], value: float) -> Values:
        """Collect these keys, a minute later, and roll up; gives what was stored."""
        here = self.installation
        at = here.now
        values = np.arange(len(keys)) + value
        here.now = at + MINUTE + timedelta(seconds=10)
        here.store = self.store
        here.collect_all([Collected(target, at, 0.01, (Batch(at, keys, values),), samples=len(keys))])
        self.rollup.run(lambda: here.now, budget=LONG)
        here.now = at + 2 * MINUTE
        return {(key.metric, at): float(one) for key, one in zip(keys, values, strict=True)}

    def pid(self) -> int:
        """The server's process behind the connection."""
        return self.database.run(lambda found: int(found.execute(text("SELECT pg_backend_pid()")).scalar_one()))


@pytest.fixture
def processes(installation: Installation, other: Database) -> tuple[Process, Process]:
    return Process(installation, installation.database), Process(installation, other)


def dump(url: str, path: Path) -> None:
    _run("pg_dump", "--schema=aggregator", f"--file={path}", url)


def restore(url: str, path: Path) -> None:
    """In place, in one transaction: nobody is cut off."""
    # pg_dump's own `--clean` cannot drop a partition's primary key.
    empty = "--command=DROP SCHEMA aggregator CASCADE"
    _run("psql", "--quiet", "--single-transaction", "--set=ON_ERROR_STOP=1", empty, f"--file={path}", url)


def _run(program: str, *words: str) -> None:
    done = subprocess.run(
        [str(postgres_binaries() / program), *words], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


def stored(installation: Installation) -> tuple[Values, Values]:
    """What the samples and the rollups of a minute say, by metric and minute."""
    with installation.database.engine.connect() as connection:
        samples = connection.execute(text("SELECT metric, time, value FROM aggregator.samples")).all()
        rollups = connection.execute(text("SELECT metric, time, max FROM aggregator.metrics_1m WHERE count = 1")).all()
    return tuple({(row[0], row[1]): row[2] for row in found} for found in (samples, rollups))  # type: ignore[return-value] # two


def test_no_value_is_read_under_the_name_of_another_series(
    installation: Installation, processes: tuple[Process, Process], tmp_path: Path
) -> None:
    one, two = processes
    (target,) = installation.targets(1)
    before = one.collect(target, (A, B), 10)
    dump(installation.url, tmp_path / "dump.sql")
    keys = (A, B, C, D)
    lost = one.collect(target, keys, 20)
    assert stored(installation) == (before | lost, before | lost)
    pids = one.pid(), two.pid()
    restore(installation.url, tmp_path / "dump.sql")
    assert stored(installation) == (before, before)
    # Another process gives the places of C and D, in the frame map and in the block, to X and Y.
    after = two.collect(target, (A, B, X, Y), 30)
    # The first one has found no reason to ask anew: its keys and its connection are the same.
    after |= one.collect(target, keys, 40)
    after |= two.collect(target, (A, B, X, Y), 50)
    assert (one.pid(), two.pid()) == pids
    assert stored(installation) == (before | after, before | after)


def test_another_target_s_new_series_vouch_for_nothing_that_was_remembered(
    installation: Installation, processes: tuple[Process, Process], tmp_path: Path
) -> None:
    one, two = processes
    target, other = installation.targets(2)
    before = one.collect(target, (A, B), 10)
    dump(installation.url, tmp_path / "dump.sql")
    keys = (A, B, C, D)
    one.collect(target, keys, 20)
    restore(installation.url, tmp_path / "dump.sql")
    after = two.collect(target, (A, B, X, Y), 30)
    # In one storing: a target whose places are remembered, and one that brings a series to be registered first.
    at, news = installation.now, (series_key("news", 1, Kind.GAUGE),)
    installation.now = at + MINUTE + timedelta(seconds=10)
    installation.store = one.store
    installation.collect_all(
        [
            Collected(target, at, 0.01, (Batch(at, keys, np.arange(4) + 40.0),), samples=4),
            Collected(other, at, 0.01, (Batch(at, news, np.array([7.0])),), samples=1),
        ]
    )
    one.rollup.run(lambda: installation.now, budget=LONG)
    after |= {(key.metric, at): 40.0 + place for place, key in enumerate(keys)} | {("news", at): 7.0}
    assert stored(installation) == (before | after, before | after)


def test_what_was_remembered_before_the_dump_is_still_good_after_it(
    installation: Installation, processes: tuple[Process, Process], tmp_path: Path
) -> None:
    one, _ = processes
    (target,) = installation.targets(1)
    keys = (A, B)
    values = one.collect(target, keys, 10)
    dump(installation.url, tmp_path / "dump.sql")
    one.collect(target, keys, 20)
    remembered = one.store.places.times_forgotten
    restore(installation.url, tmp_path / "dump.sql")
    installation.now += MINUTE
    values |= one.collect(target, keys, 30)
    assert one.store.places.times_forgotten == remembered
    assert stored(installation) == (values, values)


def test_an_import_goes_on_under_the_right_names(
    installation: Installation, processes: tuple[Process, Process], tmp_path: Path
) -> None:
    one, two = processes
    (target,) = installation.targets(1)
    before = one.collect(target, (A, B), 10)
    dump(installation.url, tmp_path / "dump.sql")
    store = HistoryStore(one.database)
    labels = dict(target.labels)
    known = store.target("scripted", labels, interval=timedelta(seconds=15), now=installation.now)
    keys = (C, D)

    def put(at: datetime) -> Values:
        at_ms = np.full(2, milliseconds(at))
        store.store(known, History(keys, np.arange(2), at_ms, np.array([1.0, 2.0])), now=installation.now)
        return {(C.metric, at): 1.0, (D.metric, at): 2.0}

    put(START - timedelta(hours=1))
    restore(installation.url, tmp_path / "dump.sql")
    after = two.collect(target, (A, B, X, Y), 30)
    after |= put(START - timedelta(hours=2))
    assert stored(installation)[0] == before | after
