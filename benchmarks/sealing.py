"""The sealing benchmark: what rollups and samples take before and after they are sealed, and how fast that goes.

    python benchmarks/sealing.py [--recordings DIRECTORY ...] [--targets 4] [--binaries DIRECTORY]

Four hours of scrapes, those that `recorded.py` has recorded (a second stands for a slot of 15) and random walks, go
through the service's own collection, rollup and sealing, one target after the other's copy; in a server of its own.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import psutil
from bench_installation import temporary_home
from figures import connected, value
from recorded import Recording

from aggregator.collectors.protocol import Batch, Collected, Target
from aggregator.config.load import load_settings
from aggregator.embedded.postgres import EmbeddedPostgres
from aggregator.embedded.wheels import postgres_binaries
from aggregator.exposition.series import Kind, SeriesKey
from aggregator.stages.collect.store import FrameStore
from aggregator.stages.maintain.sealing import Sealing
from aggregator.stages.rollup import Rollup
from aggregator.storage import catalog, claims, partitions, registry, tables
from aggregator.storage.bootstrap import bring_up
from aggregator.storage.engine import Connection, Database
from aggregator.storage.partitions import SEALED_SAMPLES
from aggregator.storage.sample_sealing import SealedSamples

#: The spans of 1m begin and end with it: four hours are 240 buckets, and 960 slots.
START = datetime(2026, 3, 1, 8, tzinfo=UTC)
SLOT = timedelta(seconds=15)
SLOTS = 960
_LONG = timedelta(hours=1)
#: Every span that has begun has closed then, of the finest tier; coarser ones stay open.
_CLOSED = START + timedelta(hours=4, minutes=5)
_FORMS = {"open": ("rollup_1m",), "sealed": ("sealed_1m", "clock_1m")}
_SAMPLE_FORMS = {"open": ("sample_frame",), "sealed": ("sample_sealed", "sample_clock")}


@dataclass(frozen=True)
class Data:
    """One kind of data."""

    name: str
    recording: Recording


def kinds(directories: Sequence[Path]) -> Iterator[Data]:
    """Recordings, then walks; the seed is fixed, so that two runs store the same walks."""
    for path in sorted(path for directory in directories for path in directory.glob("*.npz")):
        yield Data(path.stem, Recording.load(path))
    random = np.random.default_rng(1)
    steps = random.normal(size=(SLOTS, 512)).cumsum(axis=0)
    delays = random.integers(2, 40, SLOTS)
    for name, values in (("walk, 2 places", np.round(steps, 2)), ("walk, full mantissa", steps)):
        yield Data(name, Recording(values, delays, np.zeros(values.shape[1], dtype=np.bool_)))


@dataclass
class Installed:
    """A database with one source, whose collections come as fast as they are stored."""

    database: Database
    source_id: int
    store: FrameStore
    rollup: Rollup
    now: datetime = START

    @classmethod
    def make(cls, url: str, home: Path) -> Installed:
        """Publish the default settings and one source."""
        bring_up(url, load_settings(environment={"HOME": str(home), "AGGREGATOR_NODE": "bench"}), now=START)
        database = Database.connect(url, application="benchmark")
        return cls(database, database.run(_make_source), FrameStore(database), Rollup(database, "bench"))

    def play(self, data: Data, *, targets: int) -> None:
        """Store and roll up the recording, on so many targets alike."""
        listed = self._targets(targets)
        keys = [_keys(data.recording, target) for target in listed]
        for slot in range(SLOTS):
            values, delay = data.recording.values[slot], int(data.recording.delay_ms[slot])
            at = START + slot * SLOT + timedelta(milliseconds=delay)
            given = np.flatnonzero(~np.isnan(values))
            self.now = at + timedelta(milliseconds=40, microseconds=int(slot * 7919 % 1000))
            self._collect(
                [_collected(target, own, values, given, at) for target, own in zip(listed, keys, strict=True)]
            )
        self.now = _CLOSED
        self.rollup.run(lambda: self.now, budget=_LONG)

    def _targets(self, count: int) -> list[Target]:
        entries = [registry.TargetEntry(f"http://t{place}", (("instance", f"t{place}"),)) for place in range(count)]

        def work(connection: Connection) -> list[Target]:
            registry.sync_targets(connection, self.source_id, entries, now=self.now)
            registry.ensure_intake(connection, self.source_id)
            found = connection.execute(tables.targets.select().where(tables.targets.c.source_id == self.source_id))
            return [Target(row.id, row.address, tuple(row.labels.items())) for row in found]

        return self.database.run(work)

    def _collect(self, collected: Sequence[Collected]) -> None:
        claimed = self.database.run(
            lambda connection: claims.claim(
                connection,
                shard_id=registry.ensure_intake(connection, self.source_id),
                slot=self.now,
                target_ids=[one.target.id for one in collected],
                node="bench",
                now=self.now,
                lease=_LONG,
                by_hand=True,
            )
        )
        if claimed is None:
            raise AssertionError("nobody else collects")
        self.store.store(claimed, collected, source_id=self.source_id, shard_id=None, clock=lambda: self.now)


def _make_source(connection: Connection) -> int:
    statement = tables.sources.insert().values(
        name="recorded",
        kind="prometheus",
        definition={},
        interval_seconds=SLOT.total_seconds(),
        offset_seconds=0,
        active=True,
        published_at=START,
        published_by="benchmark",
    )
    return int(connection.execute(statement.returning(tables.sources.c.id)).scalar_one())


_KEYS: dict[tuple[int, bytes], tuple[SeriesKey, ...]] = {}


def _keys(recording: Recording, target: Target) -> list[SeriesKey]:
    kinds_of = [Kind.COUNTER if is_counter else Kind.GAUGE for is_counter in recording.is_counter.tolist()]
    return [SeriesKey(f"m{place:05}", target.labels, kind) for place, kind in enumerate(kinds_of)]


def _collected(
    target: Target, keys: Sequence[SeriesKey], values: np.ndarray, given: np.ndarray, at: datetime
) -> Collected:
    """A collection; the same tuple of keys as long as the series are the same, as collectors do."""
    known = (target.id, given.tobytes())
    if known not in _KEYS:
        _KEYS[known] = tuple(keys[place] for place in given.tolist())
    return Collected(target, at, 0.01, (Batch(at, _KEYS[known], values[given]),), samples=len(given))


@dataclass(frozen=True)
class Sizes:
    """Bytes by form of rollups of 1m and of samples, with indexes and TOAST."""

    rollups: dict[str, int]
    samples: dict[str, int]


def sizes(url: str) -> Sizes:
    """What is stored now, without what is dead."""
    with connected(url) as connection:
        value_of = {}
        for table in {*itertools.chain(*_FORMS.values(), *_SAMPLE_FORMS.values())}:
            names = value(
                connection,
                "SELECT array_agg(inhrelid::regclass::text) FROM pg_inherits WHERE inhparent = %(parent)s::regclass",
                parent=f"aggregator.{table}",
            )
            with connection.cursor() as cursor:
                for name in names or ():
                    cursor.execute(f"VACUUM FULL {name}")
            value_of[table] = sum(
                int(value(connection, f"SELECT pg_total_relation_size('{name}')")) for name in names or ()
            )
    return Sizes(
        *(
            {form: sum(value_of[table] for table in listed) for form, listed in forms.items()}
            for forms in (_FORMS, _SAMPLE_FORMS)
        )
    )


@dataclass(frozen=True)
class Effort:
    """What sealing took: seconds of this process and of the server's, WAL, and all of it by the clock."""

    own: float
    server: float
    clock: float
    wal_bytes: int


@contextmanager
def measured(url: str, found: list[Effort]) -> Iterator[None]:
    """Append what a block takes."""

    def server_seconds() -> float:
        with connected(url) as connection:
            postmaster = psutil.Process(int(value(connection, "SELECT pg_backend_pid()"))).parent()
            every = [postmaster, *postmaster.children()] if postmaster else []
            return sum(sum(one.cpu_times()[:2]) for one in every)

    def wal() -> int:
        with connected(url) as connection:
            return int(value(connection, "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')"))

    server, written, own, clock = server_seconds(), wal(), time.process_time(), time.monotonic()
    yield
    found.append(
        Effort(time.process_time() - own, server_seconds() - server, time.monotonic() - clock, wal() - written)
    )


def seal_samples(database: Database, kind: SealedSamples) -> None:
    """Seal all samples that have closed."""
    for start in database.run(lambda connection: list(kind.closed_spans(connection, now=_CLOSED))):
        for one in SEALED_SAMPLES:
            database.run(partial(partitions.ensure, partitioned=one, since=start, until=_CLOSED))
        for shard_id in database.run(partial(kind.shards, start=start)):
            while database.run(partial(kind.seal_some, shard_id=shard_id, start=start, now=_CLOSED)) is not None:
                pass


def report(data: Data, *, targets: int, binaries: Path) -> None:
    """Print what one kind of data takes, and how fast it is sealed."""
    with (
        temporary_home("aggregator-sealing-") as home,
        EmbeddedPostgres(home / "postgres", binaries=binaries, port=None, fsync=False) as server,
    ):
        installed = Installed.make(server.url, home)
        installed.play(data, targets=targets)
        before = sizes(server.url)
        efforts: list[Effort] = []
        installation = installed.database.run(catalog.read_installation)
        with measured(server.url, efforts):
            seal_samples(installed.database, SealedSamples(installation))
        with measured(server.url, efforts):
            sealed = Sealing(installed.database, installation, lambda: _CLOSED).run(budget=_LONG)
        after = sizes(server.url)
        installed.database.dispose()
    samples = int((~np.isnan(data.recording.values[:SLOTS])).sum()) * targets
    of_samples, effort = efforts
    rollups = sealed.rollups
    print(
        f"{data.name:24} {data.recording.values.shape[1]:6,}"
        f" {before.rollups['open'] / rollups:8.2f} {after.rollups['sealed'] / rollups:7.2f}"
        f" {before.samples['open'] / samples:8.2f} {after.samples['sealed'] / samples:7.2f}"
        f" {rollups / effort.clock / 1e6:8.2f} {rollups / effort.own / 1e6:7.2f} {rollups / effort.server / 1e6:7.2f}"
        f" {effort.wal_bytes / rollups:7.1f}"
        f" {samples / of_samples.clock / 1e6:8.2f} {samples / of_samples.own / 1e6:7.2f}"
        f" {samples / of_samples.server / 1e6:7.2f} {of_samples.wal_bytes / samples:7.1f}",
        flush=True,
    )


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--recordings", type=Path, nargs="*", default=[], help="where recorded.py has put its files")
    parser.add_argument("--targets", type=int, default=4, help="how many targets have the same series")
    parser.add_argument("--binaries", type=Path, help="the directory of another PostgreSQL's binaries")
    parser.add_argument("--only", help="kinds whose names contain this")
    arguments = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f}")
    print(
        f"{'':31} {'B a rollup of 1m':>16} {'B a sample':>16}  million rollups a second: WAL"
        f"  {'million samples a second: WAL':>32}"
    )
    print(
        f"{'':24} series {'open':>8} {'sealed':>7} {'open':>8} {'sealed':>7} {'clock':>8} {'own':>7} {'server':>7}"
        f"  B each {'clock':>8} {'own':>7} {'server':>7}  B each"
    )
    for data in kinds(arguments.recordings):
        if arguments.only is None or arguments.only in data.name:
            report(data, targets=arguments.targets, binaries=arguments.binaries or postgres_binaries())


if __name__ == "__main__":
    main()
