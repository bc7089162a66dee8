"""The catch-up benchmark: an hour of collections that nobody rolled up, and then the workers that do.

How long until the ledger has nothing due, and are new collections delayed by it?

    python benchmarks/catch_up.py [--targets 10] [--series 1000] [--minutes 60]

A worker collects for real all the time. The hour before it goes through the service's own storing path, slot by slot,
as if it had been collected then. Needs the embedded servers (extra `up`).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from statistics import median

import numpy as np
import numpy.typing as npt
from bench_installation import Installation, exposition_server, installation
from figures import Connection, connected, rows, value

from aggregator.collectors.protocol import Batch, Collected, Target
from aggregator.exposition.series import Kind, SeriesKey
from aggregator.stages.collect.store import FrameStore
from aggregator.storage import claims
from aggregator.storage.engine import Connection as StorageConnection
from aggregator.storage.engine import Database

INTERVAL = timedelta(seconds=15)
PATIENCE = timedelta(minutes=8)
#: How long new collections are watched before and after.
WATCHED = timedelta(seconds=60)
_COLLECTING = ("--queues", "aggregator.collect,aggregator.maintain,aggregator.node.bench")
_ROLLING_UP = ("--queues", "aggregator.rollup,aggregator.node.roll", "--concurrency", "2")

_DUE = "SELECT count(*), count(DISTINCT (tier_id, bucket)) FROM aggregator.dirty WHERE due <= now() AND NOT backfill"
_SHARDS = "SELECT count(*) FILTER (WHERE shard_id IS NOT NULL), count(*) FROM aggregator.targets WHERE active"
_SERIES = """
    SELECT t.id, t.shard_id, s.kind, s.metric, s.labels FROM aggregator.series AS s
    JOIN aggregator.targets AS t ON t.id = s.target_id ORDER BY t.id, s.id
"""
#: From the instant at which a slot was to be begun until it was stored.
_DELAYS = """
    SELECT extract(epoch FROM c.finished_at - c.slot) - o.offset_seconds
    FROM aggregator.collections AS c JOIN aggregator.shards AS h ON h.id = c.shard_id
    JOIN aggregator.sources AS o ON o.id = h.source_id
    WHERE NOT c.by_hand AND NOT h.is_intake AND c.slot >= %(since)s AND c.slot < %(until)s AND c.finished_at IS NOT NULL
"""
_FIRST = "SELECT min(at) FROM aggregator.sample_frame"
_MISSED = "SELECT coalesce(sum(slots_missed), 0)::bigint FROM aggregator.shard_slots"


def config(urls: Sequence[str]) -> str:
    """One source with these targets; the rest is as everybody has it."""
    return f"""
        [[sources]]
        name = "node"
        kind = "prometheus"
        targets = {json.dumps(list(urls))}
        interval = "{INTERVAL.total_seconds():g}s"
        """


@dataclass(frozen=True)
class Known:
    """A target whose series are registered."""

    target: Target
    shard_id: int
    keys: tuple[SeriesKey, ...]


def await_targets(connection: Connection, targets: int) -> None:
    """Wait until every target has been collected in its shard."""
    deadline = time.monotonic() + PATIENCE.total_seconds()
    while rows(connection, _SHARDS)[0] != (targets, targets):
        if time.monotonic() > deadline:
            raise SystemExit("the targets were not collected in time; see the logs")
        time.sleep(1)


def known_targets(connection: Connection) -> list[Known]:
    """The targets, with the series that their first collections have registered."""
    keys: dict[tuple[int, int], list[SeriesKey]] = {}
    for target_id, shard_id, kind, metric, labels in rows(connection, _SERIES):
        key = SeriesKey(metric, tuple(sorted(labels.items())), Kind(kind))
        keys.setdefault((target_id, shard_id), []).append(key)
    return [Known(Target(target, "", ()), shard, tuple(listed)) for (target, shard), listed in keys.items()]


def store_past(database: Database, known: Sequence[Known], *, until: datetime, span: timedelta) -> int:
    """Store a span of slots before an instant, a transaction for each slot of a shard; gives the samples."""
    store, random, samples = FrameStore(database), np.random.default_rng(1), 0
    slots = span // INTERVAL
    shards = {one.shard_id: [other for other in known if other.shard_id == one.shard_id] for one in known}
    for place, (shard_id, of_shard) in itertools.product(range(slots), shards.items()):
        at = until - (slots - place) * INTERVAL
        collected = [
            Collected(one.target, at, 0.05, (Batch(at, one.keys, _values(one, place, random)),), samples=len(one.keys))
            for one in of_shard
        ]
        claimed = database.run(partial(_claim, known=of_shard, slot=at))
        store.store(claimed, collected, source_id=0, shard_id=shard_id, clock=lambda: datetime.now(UTC))
        samples += sum(len(one.keys) for one in of_shard)
    return samples


def _claim(connection: StorageConnection, known: Sequence[Known], slot: datetime) -> claims.Claim:
    claimed = claims.claim(
        connection,
        shard_id=known[0].shard_id,
        slot=slot,
        target_ids=[one.target.id for one in known],
        node="past",
        now=datetime.now(UTC),
        lease=timedelta(minutes=5),
        by_hand=True,
    )
    if claimed is None:
        raise AssertionError("nobody else claims the past")
    return claimed


def _values(one: Known, place: int, random: np.random.Generator) -> npt.NDArray[np.float64]:
    counters = np.array([key.kind == Kind.COUNTER for key in one.keys])
    return np.where(counters, place * 7.0, np.round(random.normal(size=len(one.keys)), 2))


def delays(connection: Connection, since: datetime, until: datetime) -> list[float]:
    """Seconds from when each slot of a span was due until it was stored."""
    return sorted(float(row[0]) for row in rows(connection, _DELAYS, since=since, until=until))


def say(name: str, found: Sequence[float]) -> None:
    """One line of the report."""
    text = f"median {median(found):.2f} s, longest {max(found):.2f} s" if found else "none ended"
    print(f"new collections {name}: {len(found)} slots, from due to stored {text}", flush=True)


def _watch(connection: Connection) -> Iterator[tuple[float, int, int]]:
    """Seconds, and what is due, once a second until nothing is."""
    began = time.monotonic()
    while True:
        due, buckets = rows(connection, _DUE)[0]
        yield time.monotonic() - began, due, buckets
        if not due:
            return
        if time.monotonic() - began > PATIENCE.total_seconds():
            raise SystemExit(f"still {due} rows due after {PATIENCE}")
        time.sleep(0.5)


def run(installed: Installation, *, targets: int, span: timedelta) -> None:
    """Fill the past, watch, catch up, watch, report."""
    with connected(installed.database_url) as connection:
        await_targets(connection, targets)
        known = known_targets(connection)
        database = Database.connect(installed.database_url, application="benchmark past")
        began = time.monotonic()
        first = value(connection, _FIRST)
        samples = store_past(database, known, until=first, span=span)
        database.dispose()
        print(f"{samples:,} samples of the past stored in {time.monotonic() - began:.0f} s", flush=True)
        missed = value(connection, _MISSED)
        before = datetime.now(UTC)
        time.sleep(WATCHED.total_seconds())
        due, buckets = rows(connection, _DUE)[0]
        print(f"due: {due} marks of {buckets} buckets; load {os.getloadavg()[0]:.1f}", flush=True)
        during = datetime.now(UTC)
        with installed.worker("roll", *_ROLLING_UP):
            for seconds, due, buckets in _watch(connection):
                if round(seconds * 2) % 10 == 0:
                    print(f"  {seconds:5.1f} s: {due} marks of {buckets} buckets are due", flush=True)
            caught_up = datetime.now(UTC)
            print(
                f"caught up after {(caught_up - during).total_seconds():.1f} s, with the workers' own start", flush=True
            )
            time.sleep(WATCHED.total_seconds())
            after = datetime.now(UTC)
        # One slot more on either side: a short span has no slot of its own.
        say("before", delays(connection, before, during))
        say("meanwhile", delays(connection, during - INTERVAL, caught_up + INTERVAL))
        say("after", delays(connection, caught_up, after - INTERVAL))
        print(f"slots missed since: {value(connection, _MISSED) - missed}; load {os.getloadavg()[0]:.1f}")
    for line in installed.errors()[:20]:
        print(line)


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--targets", type=int, default=10)
    parser.add_argument("--series", type=int, default=1_000, help="of each target")
    parser.add_argument("--minutes", type=float, default=60, help="that nobody rolled up")
    arguments = parser.parse_args()
    with (
        exposition_server(targets=arguments.targets, series=arguments.series) as urls,
        installation(config(urls), *_COLLECTING) as installed,
    ):
        run(installed, targets=arguments.targets, span=timedelta(minutes=arguments.minutes))


if __name__ == "__main__":
    main()
