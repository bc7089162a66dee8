"""A late sample costs its own bucket, at most the next ones within the lookback, and one bucket of each coarser tier.

Counted in the transactions of the rollups: statements, frames read, and rollup rows written. With 1 target and with 20
alike: at most 24 statements in a transaction, 4 frames read (8 where the sample is the last one of its bucket),
and for each of the two blocks that hold the target's series one row in each tier (and one more in 1m where the sample
is the last one of its bucket; up to 1h where it is the last one of its hour).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, event, text

from aggregator.collectors.protocol import Target
from aggregator.exposition.series import Kind, SeriesKey
from aggregator.rollups.buckets import milliseconds
from aggregator.storage import copying
from tests.installation import Installation, series_key

START = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
SLOT_MS = 15_000
BUCKET = timedelta(minutes=1)
LOOKBACK_BUCKETS = 5
METRICS = 2
#: What one transaction may send, whatever the size of the shard and the length of its past.
MOST_STATEMENTS = 31

_COUNTED = text(
    """
    SELECT relname, n_tup_ins + n_tup_upd AS written, coalesce(idx_tup_fetch, 0) + seq_tup_read AS read
    FROM pg_stat_xact_user_tables WHERE schemaname = 'aggregator' AND relname ~ '^(rollup|sample_frame)_'
    """
)
# What a session has counted is handed on once a second; until then it counts for the next transaction too.
_HAND_ON = text("SELECT pg_stat_force_next_flush()")


@dataclass
class Cost:
    """What the transactions of a rollup did. By tier the rows written; samples frames read; statements of each."""

    written: Counter[str] = field(default_factory=Counter)
    frames_read: int = 0
    statements: list[int] = field(default_factory=lambda: [0])

    def count_statement(self, *_: object) -> None:
        self.statements[-1] += 1

    def count_rows(self, connection: Connection) -> None:
        """At the end of a transaction, and before the next one."""
        for relation, written, read in connection.execute(_COUNTED):
            table, _, rest = relation.partition("_")
            if table == "rollup":
                self.written[rest.partition("_")[0]] += written
            else:
                self.frames_read += read
        connection.execute(_HAND_ON)
        self.statements[-1] -= 2  # our own
        self.statements.append(0)


@contextmanager
def counted(installation: Installation) -> Iterator[Cost]:
    """Count what the installation's connection does."""
    cost, engine = Cost(), installation.database.engine
    installation.database.run(lambda connection: connection.execute(_HAND_ON))
    event.listen(engine, "before_cursor_execute", cost.count_statement)
    event.listen(engine, "commit", cost.count_rows)
    copying_cursor = copying._cursor

    def count_copy(connection: Connection) -> AbstractContextManager[Any]:
        cost.count_statement()
        return copying_cursor(connection)

    try:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(copying, "_cursor", count_copy)
            yield cost
    finally:
        event.remove(engine, "before_cursor_execute", cost.count_statement)
        event.remove(engine, "commit", cost.count_rows)


def values_of(place: int, at_ms: int) -> dict[SeriesKey, float]:
    names = [(f"{kind.name.lower()}_{number}", kind) for kind in Kind for number in range(METRICS)]
    return {series_key(name, place, kind): float(at_ms - milliseconds(START)) for name, kind in names}


def fill(installation: Installation, targets: list[Target], *, missing: datetime) -> None:
    """An hour of samples of all targets, rolled up; the first target lacks one."""
    since = milliseconds(START)
    instants = range(since, since + 3_600_000, SLOT_MS)
    installation.now += timedelta(hours=1)
    for place, target in enumerate(targets):
        left_out = milliseconds(missing) if place == 0 else None
        installation.collect(target, {at: values_of(place, at) for at in instants if at != left_out})
    installation.now += timedelta(days=1)
    installation.roll_up()
    assert installation.marks() == []


def cost_of_late_sample(installation: Installation, targets: int, at: datetime) -> Cost:
    """What it takes to roll up one sample that comes after all the others."""
    made = installation.targets(targets)
    fill(installation, made, missing=at)
    installation.now += timedelta(seconds=1)
    installation.collect(made[0], {milliseconds(at): values_of(0, milliseconds(at))})
    with counted(installation) as cost:
        installation.roll_up()
    assert installation.marks() == []
    return cost


@pytest.mark.parametrize("targets", [1, 20])
@pytest.mark.parametrize(
    ("late", "coarse_buckets"),
    [
        pytest.param(timedelta(minutes=7, seconds=45), 1, id="last of its bucket"),
        pytest.param(timedelta(minutes=7, seconds=15), 1, id="inside its bucket"),
        # The next bucket lies in the next five minutes, and in the next hour: each coarser tier has two to merge.
        pytest.param(timedelta(minutes=29, seconds=45), 2, id="last of an hour"),
    ],
)
def test_a_late_sample_costs_its_bucket_the_next_and_one_of_each_coarser_tier(
    installation: Installation, targets: int, late: timedelta, coarse_buckets: int
) -> None:
    cost = cost_of_late_sample(installation, targets, START + late)
    rows = len(Kind)
    is_last_of_bucket = (START + late).second == 45
    # Not only within the bound: nothing is computed that cannot have changed.
    buckets = 2 if is_last_of_bucket else 1
    assert buckets <= 1 + LOOKBACK_BUCKETS
    assert cost.written["1m"] <= buckets * rows
    assert cost.written["5m"] <= coarse_buckets * rows
    assert cost.written["1h"] <= coarse_buckets * rows
    assert cost.written["1d"] <= rows
    assert cost.frames_read <= buckets * BUCKET.total_seconds() * 1_000 // SLOT_MS
    assert max(cost.statements) <= MOST_STATEMENTS
