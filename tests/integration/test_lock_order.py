"""Everything at once, on the same targets and shards: no two transactions ever wait for each other."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from sqlalchemy import text

from aggregator.collectors.protocol import Batch, Collected, Target
from aggregator.config.load import load_settings
from aggregator.embedded.process import wait_until
from aggregator.errors import LeaseLostError
from aggregator.exposition.series import Kind
from aggregator.stages.collect.store import FrameStore
from aggregator.stages.maintain import Maintain
from aggregator.stages.rollup import Rollup
from aggregator.storage import claims, publish, registry, runs
from aggregator.storage.engine import Connection, Database, is_lock_timeout
from tests.effort import examples
from tests.installation import Installation, series_key
from tests.sessions import PATIENCE, session

START = datetime(2026, 3, 1, 8, tzinfo=UTC)
INTERVAL = timedelta(seconds=15)
TARGETS = 12
SECONDS = timedelta(seconds=examples(4))
_OTHERS = text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = current_user"
    " AND pid <> pg_backend_pid()"
)
_DEADLOCKS = text("SELECT deadlocks, xact_commit FROM pg_stat_database WHERE datname = current_database()")


@dataclass
class Busy:
    """Workers of every kind, each on a connection of its own, until they are told to stop."""

    installation: Installation
    targets: list[Target]
    stop: threading.Event = field(default_factory=threading.Event)
    failures: list[BaseException] = field(default_factory=list)
    done: dict[str, int] = field(default_factory=dict)
    ticks: Iterator[int] = field(default_factory=itertools.count)

    def now(self) -> datetime:
        """Each look at the clock is a second later, whoever looks."""
        return START + timedelta(seconds=next(self.ticks))

    @contextmanager
    def running(self, work: Callable[[Database, random.Random], None], name: str) -> Iterator[None]:
        """Do something again and again in a thread."""
        thread = threading.Thread(target=self._repeat, args=(work, name), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.stop.set()
            thread.join()

    def _repeat(self, work: Callable[[Database, random.Random], None], name: str) -> None:
        chance = random.Random(name)  # noqa: S311 - a test's choice
        with session(self.installation.url) as database:
            while not self.stop.is_set():
                try:
                    work(database, chance)
                except LeaseLostError:
                    pass
                except Exception as error:  # noqa: BLE001 - looked at by the test
                    if not is_lock_timeout(error):
                        self.failures.append(error)
                        return
                self.done[name] = self.done.get(name, 0) + 1

    def collect(self) -> Callable[[Database, random.Random], None]:
        """Collect some targets in any order, with a series that nobody knows now and then, and say how they are."""
        stores: list[FrameStore] = []

        def work(database: Database, chance: random.Random) -> None:
            if not stores:
                stores.append(FrameStore(database))
            chosen = chance.sample(self.targets, chance.randrange(1, TARGETS))
            now = self.now()
            collected = [_collected(target, now, chance) for target in chosen]
            claimed = database.run(lambda connection: self._claim(connection, chosen, now, chance))
            if claimed is not None:
                stores[0].store(
                    claimed, collected, source_id=self.installation.source_id, shard_id=None, clock=self.now
                )
            changes = [registry.StateChange(one.id, chance.random() < 0.5, "broken", now) for one in chosen]
            database.run(lambda connection: registry.record_states(connection, changes))

        return work

    def _claim(
        self, connection: Connection, chosen: list[Target], now: datetime, chance: random.Random
    ) -> claims.Claim | None:
        runs.woken(connection, "collect:scripted", slot=now, interval=INTERVAL, now=now)
        shard_id = registry.ensure_intake(connection, self.installation.source_id)
        slot = now if chance.random() < 0.5 else START + INTERVAL * chance.randrange(1_000)
        ids = [one.id for one in chosen]
        lease = timedelta(seconds=chance.choice([0, 60]))
        claimed = claims.claim(
            connection, shard_id=shard_id, slot=slot, target_ids=ids, node="test", now=now, lease=lease, by_hand=False
        )
        if claimed is not None:
            claims.count_slot(connection, shard_id=shard_id, slot=slot, interval=INTERVAL)
        return claimed

    def roll_up(self, database: Database, _: random.Random) -> None:
        """Roll up what is due, with caches of its own."""
        Rollup(database, "test").run(self.now, budget=timedelta(milliseconds=200))

    def maintain(self, database: Database, _: random.Random) -> None:
        """Partitions, retention, lost collections, sealing; sometimes by a time at which much has passed."""
        Maintain(database, "test").run(clock=self.now)

    def sync(self, database: Database, chance: random.Random) -> None:
        """Targets come and go."""
        entries = [
            registry.TargetEntry(target.address, target.labels)
            for target in chance.sample(self.targets, chance.randrange(TARGETS // 2, TARGETS))
        ]
        source_id = self.installation.source_id
        database.run(lambda connection: registry.sync_targets(connection, source_id, entries, now=self.now()))
        database.run(lambda connection: claims.move_slots(connection, source_id, now=self.now()))

    def publish(self, path: Path) -> Callable[[Database, random.Random], None]:
        """Two configurations in turn."""

        def work(database: Database, chance: random.Random) -> None:
            file = path / "aggregator.toml"
            file.write_text(f'lateness = "{chance.randrange(60, 120)}s"\n')
            settings = load_settings(file, environment={"HOME": str(path), "AGGREGATOR_NODE": "test"})
            database.run(
                lambda connection: publish.publish(connection, settings, config_hash=str(chance), now=self.now())
            )

        return work


def _collected(target: Target, at: datetime, chance: random.Random) -> Collected:
    names = ["a", "b", *(["new_" + str(chance.randrange(40))] if chance.random() < 0.3 else [])]
    keys = tuple(series_key(name, target.id, Kind.GAUGE) for name in names)
    instant = at - timedelta(seconds=chance.choice([0, 0, 0, 90, 4_000]))
    return Collected(target, at, 0.01, (Batch(instant, keys, np.ones(len(keys))),), samples=len(keys))


def test_stages_that_run_side_by_side_never_wait_for_each_other(installation: Installation, tmp_path: Path) -> None:
    busy = Busy(installation, installation.targets(TARGETS))
    works = {
        "collect 1": busy.collect(),
        "collect 2": busy.collect(),
        "collect 3": busy.collect(),
        "roll up 1": busy.roll_up,
        "roll up 2": busy.roll_up,
        "maintain": busy.maintain,
        "sync": busy.sync,
        "publish": busy.publish(tmp_path),
    }
    with ExitStack() as stack:
        for name, work in works.items():
            stack.enter_context(busy.running(work, name))
        stopped_early = wait_until(lambda: bool(busy.failures), SECONDS)
    assert not stopped_early, busy.failures[0]
    assert set(busy.done) == set(works), busy.done
    installation.database.dispose()
    with session(installation.url) as database:
        assert wait_until(lambda: database.run(_others) == 0, PATIENCE)  # what a session did is counted before its end
        assert wait_until(lambda: database.run(_deadlocks_and_commits)[1] > 0, PATIENCE)
        assert database.run(_deadlocks_and_commits)[0] == 0


def _others(connection: Connection) -> int:
    return int(connection.execute(_OTHERS).scalar_one())


def _deadlocks_and_commits(connection: Connection) -> tuple[int, int]:
    row = connection.execute(_DEADLOCKS).one()
    return row.deadlocks, row.xact_commit
