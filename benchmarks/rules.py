"""The rules benchmark: what a bucket of a rule costs, and what it adds to the rollup of its inputs.

10,000 gauges (100 targets x 100 metrics) in one shard, four samples a minute; one rule by instance and one over all.

    python benchmarks/rules.py

Needs the embedded servers (extra `up`). Takes a minute; everything lives in a temporary directory.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
import psutil
from bench_installation import temporary_home
from reading import INTERVAL, METRICS, TARGETS, make_series
from sqlalchemy import func, select

from aggregator.config.load import load_settings
from aggregator.config.model import Rule, Settings
from aggregator.embedded.postgres import EmbeddedPostgres
from aggregator.embedded.wheels import postgres_binaries
from aggregator.stages.rollup import Rollup
from aggregator.storage import catalog, frames, ledger, rules, tables
from aggregator.storage.bootstrap import bring_up
from aggregator.storage.engine import Connection, Database
from aggregator.storage.publish import publish

MINUTES = 30
MINUTE = timedelta(minutes=1)
START = datetime(2026, 3, 1, 12, tzinfo=UTC)
_ALL = '{__name__=~"metric_.*"}'
RULES = (Rule(name="bench:each", select=_ALL, by=("instance",)), Rule(name="bench:all", select=_ALL, by=()))
_BUDGET = timedelta(minutes=5)


@dataclass
class Costs:
    """CPU milliseconds of this process and of its server process together, by what was rolled up; one for a minute."""

    milliseconds: dict[str, list[float]] = field(default_factory=dict)

    def note(self, what: str, cpu_seconds: float) -> None:
        """Keep what one minute has cost."""
        self.milliseconds.setdefault(what, []).append(cpu_seconds * 1_000)

    def report(self) -> None:
        """The median of each, without the first two minutes, in which everything is new."""
        for what, values in self.milliseconds.items():
            print(f"{what:34} {statistics.median(values[2:]):7.1f} ms of CPU a minute")


@dataclass
class Bench:
    """One database whose inputs are rolled up minute by minute."""

    database: Database
    settings: Settings
    shard_id: int
    maps: Mapping[int, int]
    costs: Costs = field(default_factory=Costs)

    def __post_init__(self) -> None:
        """Begin with a process that remembers nothing."""
        self.rollup = Rollup(self.database, "bench")
        self.backend = psutil.Process(
            self.database.run(lambda found: found.execute(select(func.pg_backend_pid())).scalar_one())
        )

    def publish(self, wanted: Sequence[Rule], *, now: datetime) -> dict[str, int]:
        """Publish with these rules; gives their shards by name."""
        settings = self.settings.model_copy(update={"rules": tuple(wanted)})
        self.database.run(lambda found: publish(found, settings, config_hash="bench", now=now))
        return {rule.name: rule.shard_id for rule in self.database.run(rules.active_rules)}

    def minutes(self, first: int, *, label: str, rule_shards: Mapping[str, int]) -> None:
        """Store and roll up some minutes, each at its end."""
        generator = np.random.default_rng(first)
        for number in range(first, first + MINUTES):
            start = START + number * MINUTE
            self.database.run(lambda found, start=start: self.store(found, start, generator))
            self.timed(f"inputs, {label}", [self.shard_id], now=start + timedelta(seconds=70))
            for name, shard_id in rule_shards.items():
                self.timed(name, [shard_id], now=start + timedelta(seconds=90))

    def store(self, connection: Connection, start: datetime, generator: np.random.Generator) -> None:
        """The samples of a minute, and their marks."""
        (finest,) = catalog.read_installation(connection).finest
        written = [
            frames.Frame(target_id, map_id, start + place * INTERVAL, generator.normal(size=METRICS))
            for target_id, map_id in self.maps.items()
            for place in range(4)
        ]
        frames.write_frames(connection, written, received_at=start)
        marks = [ledger.Mark(finest.id, self.shard_id, start, start + MINUTE, target_id) for target_id in self.maps]
        ledger.mark(connection, marks, now=start)

    def timed(self, what: str, only: Collection[int], *, now: datetime) -> None:
        """Roll up some shards and note what it took."""
        before = time.process_time() + sum(self.backend.cpu_times()[:2])
        self.rollup.run(lambda: now, budget=_BUDGET, only=only)
        self.costs.note(what, time.process_time() + sum(self.backend.cpu_times()[:2]) - before)


def main() -> None:
    """Measure without rules, then with them."""
    with (
        temporary_home("aggregator-rules-") as home,
        EmbeddedPostgres(home / "pg", binaries=postgres_binaries(), port=None) as server,
    ):
        settings = load_settings(environment={"HOME": str(home), "AGGREGATOR_NODE": "bench"})
        bring_up(server.url, settings, now=START)
        database = Database.connect(server.url, application="benchmark")
        shard_id = database.run(lambda connection: make_series(connection, now=START))
        targets = select(tables.targets.c.id, tables.targets.c.map_id).where(tables.targets.c.shard_id == shard_id)
        maps = database.run(lambda connection: dict(connection.execute(targets).all()))
        bench = Bench(database, settings, shard_id, maps)
        bench.minutes(0, label="no rule", rule_shards={})
        began = time.perf_counter()
        shards = bench.publish(RULES, now=START + MINUTES * MINUTE)
        print(f"two rules published over {TARGETS * METRICS:,} series in {time.perf_counter() - began:.1f} s")
        bench.rollup.run(lambda: START + MINUTES * MINUTE, budget=_BUDGET)
        bench.minutes(MINUTES, label="two rules", rule_shards=shards)
        bench.costs.report()
        database.dispose()


if __name__ == "__main__":
    main()
