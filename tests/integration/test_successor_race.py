"""Ledger rule 4 against its race: a late sample and its successor are written while neither can see the other.

Buckets are sparse, one frame each: in a dense one the delta that is at stake lies inside the bucket.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import event, select

from aggregator.exposition.series import Kind
from aggregator.rollups.buckets import milliseconds
from aggregator.stages.rollup import Rollup
from aggregator.storage import catalog, frames, ledger, partitions, tables
from aggregator.storage.engine import Connection, Database, transaction
from tests import oracle
from tests.effort import examples
from tests.installation import LONG, Installation, series_key
from tests.sessions import session

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
COUNTER = series_key("c_total", 0, Kind.COUNTER)
BUCKET = timedelta(minutes=1)
INSIDE = timedelta(seconds=20)
#: One frame in each of five buckets: the third comes late, and the fourth while it is being written. It falls after the
#: late sample and rises after the one before, so that a delta of the wrong neighbour shows.
VALUES = (10.0, 20.0, 35.0, 30.0, 42.0)
LATE, NEXT = 2, 3
LOOKBACK_MS = 300_000
STEPS_MS = {"metrics_1m": 60_000, "metrics_5m": 300_000, "metrics_1h": 3_600_000, "metrics_1d": 86_400_000}
#: Longer than the lookback, so that rounds in one database do not touch each other.
ROUND = timedelta(minutes=15)
DAYS = timedelta(days=4)
#: A run ends with the first transaction that takes longer, and each one does.
ONE_TRANSACTION = timedelta(milliseconds=1)
NEVER = 10_000
#: When the two commit, in steps from a given one. With more effort, one a little before the other too.
TOGETHER = ((0, 0), (0, NEVER), (NEVER, 0))
APART = ((0, 1), (1, 0), (0, 3), (3, 0))


@dataclass
class Race:
    """The parts of a race on one target; rounds follow each other in time."""

    installation: Installation
    target_id: int
    shard_id: int
    map_id: int
    samples: dict[int, float]
    collectors: Mapping[int, Database]

    @classmethod
    def prepare(cls, installation: Installation, late: Database, following: Database) -> Race:
        """Register the counter by a first sample, long before the first round."""
        (target,) = installation.targets(1)
        at = START - ROUND
        installation.collect(target, {milliseconds(at): {COUNTER: 1.0}})
        with installation.database.engine.connect() as connection:
            shard_id = connection.execute(select(tables.targets.c.shard_id)).scalar_one()
            map_id = connection.execute(select(tables.frame_maps.c.id)).scalar_one()
        installation.database.run(
            lambda found: partitions.ensure(found, partitions.SAMPLES, since=START, until=START + DAYS)
        )
        collectors = {LATE: late, NEXT: following}
        return cls(installation, target.id, shard_id, map_id, {milliseconds(at): 1.0}, collectors)

    def write(self, connection: Connection, start: datetime, place: int) -> None:
        """Write the frame of one bucket of a round and mark it dirty, as a collector does, and do not commit."""
        at = start + place * BUCKET + INSIDE
        (finest,) = catalog.read_installation(connection).finest
        frame = frames.Frame(self.target_id, self.map_id, at, np.array([VALUES[place]]))
        frames.write_frames(connection, [frame], received_at=at)
        bucket = finest.ladder.start_of(at)
        mark = ledger.Mark(finest.id, self.shard_id, bucket, due=bucket + BUCKET, target_id=self.target_id)
        ledger.mark(connection, [mark], now=at)
        self.samples[milliseconds(at)] = VALUES[place]

    @contextmanager
    def written(self, start: datetime, place: int) -> Iterator[Callable[[], None]]:
        """A collector's transaction that has written and waits; gives what commits it."""
        with ExitStack() as open_transaction:
            connection = open_transaction.enter_context(transaction(self.collectors[place].engine))
            self.write(connection, start, place)
            yield open_transaction.close

    def roll_up(self, rollup: Rollup, start: datetime, *, budget: timedelta = LONG) -> None:
        """Roll up what is due after a round."""
        rollup.run(lambda: start + len(VALUES) * BUCKET, budget=budget)

    def assert_right(self) -> None:
        """Every increase of every tier is right, and those of each tier add up to the same total."""
        self.installation.now = START + DAYS
        self.installation.roll_up()
        totals = set()
        for view, step_ms in STEPS_MS.items():
            rows = self.installation.rows(view)
            for (_, _, time), row in rows.items():
                start_ms = milliseconds(time)
                expected = oracle.counter(self.samples.items(), start_ms, start_ms + step_ms, lookback_ms=LOOKBACK_MS)
                assert row["increase"] == expected["increase"], (view, time)
            totals.add(sum(row["increase"] for row in rows.values()))
        assert len(totals) == 1
        assert self.installation.marks() == []


@pytest.fixture
def race(installation: Installation, other: Database) -> Iterator[Race]:
    with session(installation.url) as third:
        yield Race.prepare(installation, other, third)


@pytest.mark.parametrize("order", list(itertools.permutations(["late", "next", "roll up"])), ids=" - ".join)
def test_increases_add_up_whoever_of_three_transactions_ends_first(race: Race, order: tuple[str, ...]) -> None:
    for place in (0, 1, 4):
        race.installation.database.run(lambda found, place=place: race.write(found, START, place))
    with race.written(START, LATE) as commit_late, race.written(START, NEXT) as commit_next:
        ends: Mapping[str, Callable[[], None]] = {
            "late": commit_late,
            "next": commit_next,
            "roll up": lambda: race.roll_up(race.installation.rollup, START),
        }
        for name in order:
            ends[name]()
            race.roll_up(race.installation.rollup, START)
    race.assert_right()


@contextmanager
def interrupted(rollup: Rollup, interruptions: Mapping[int, Callable[[], None]]) -> Iterator[list[int]]:
    """Do something just before the n-th statement or commit of a rollup; gives how many there have been, in a list."""
    count = [0]

    def interrupt(*_: object) -> None:
        if (work := interruptions.get(count[0])) is not None:
            work()
        count[0] += 1

    engine = rollup.database.engine
    names = ("before_cursor_execute", "commit")
    for name in names:
        event.listen(engine, name, interrupt)
    try:
        yield count
    finally:
        for name in names:
            event.remove(engine, name, interrupt)


def play(race: Race, start: datetime, rollup: Rollup, *, late_at: int, next_at: int) -> int:
    """One round in which both commit just before the given steps of a rollup; gives how many steps it had.

    A step that the rollup does not reach comes after it.
    """
    for place in (0, 1, 4):
        race.installation.database.run(lambda found, place=place: race.write(found, start, place))
    with race.written(start, LATE) as commit_late, race.written(start, NEXT) as commit_next:
        interruptions: dict[int, Callable[[], None]] = {late_at: commit_late}
        if late_at == next_at:
            interruptions[late_at] = lambda: (commit_late(), commit_next())  # type: ignore[func-returns-value]
        else:
            interruptions[next_at] = commit_next
        with interrupted(rollup, interruptions) as count:
            race.roll_up(rollup, start, budget=ONE_TRANSACTION)
        commit_late()
        commit_next()
    race.roll_up(rollup, start)
    return count[0]


def test_increases_add_up_at_whatever_step_of_a_rollup_the_two_commit(race: Race) -> None:
    rounds = itertools.count()
    with session(race.installation.url) as database:
        rollup = Rollup(database, "racing")

        def next_round(late_at: int, next_at: int) -> int:
            return play(race, START + next(rounds) * ROUND, rollup, late_at=late_at, next_at=next_at)

        next_round(0, 0)  # makes partitions and blocks, which later rounds find
        steps = next_round(NEVER, NEVER)
        assert steps > 10
        for step, (late, following) in itertools.product(range(steps), TOGETHER + APART * (examples(1) > 1)):
            next_round(step + late, step + following)
    race.assert_right()


def test_a_late_sample_with_the_value_of_the_one_before_still_changes_the_next_bucket(
    installation: Installation,
) -> None:
    (target,) = installation.targets(1)
    before, late, after = START, START + timedelta(seconds=50), START + timedelta(seconds=80)
    for at, value in ((before, 5.0), (after, 11.0), (late, 5.0)):
        installation.collect_two(target, at, c=value)
        installation.now += timedelta(minutes=5)
        installation.roll_up()
    first, second = (installation.rows("metrics_1m")["c_total", "t0", START + place * BUCKET] for place in range(2))
    assert (first["increase"], first["rate"]) == (0.0, 0.0)
    assert (second["increase"], second["rate"]) == (6.0, 6.0 / 30)
