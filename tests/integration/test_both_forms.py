"""What readers get of rollups is the same in both forms, and in any mix of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from aggregator.storage import catalog
from aggregator.storage.engine import Connection
from tests.effort import examples
from tests.forms import Made, readings
from tests.installation import Installation

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
PROFILE = settings(
    max_examples=examples(3),
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # an example takes seconds
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
Rows = list[tuple[Any, ...]]
#: The order in which PostgreSQL adds up series is its own, so the last bits of their sums are.
ADDED = ("sum", "avg", "stddev", "increase", "rate", "quantile")


@contextmanager
def undone(installation: Installation) -> Iterator[Connection]:
    """A transaction of which nothing stays."""
    with installation.database.engine.connect() as connection, connection.begin() as transaction:
        yield connection
        transaction.rollback()


def asked(connection: Connection, made: Made, *, since: datetime, until: datetime) -> Mapping[str, Rows]:
    """What readers get, in an order of its own."""
    return {
        name: sorted(
            (tuple(row.items()) for row in connection.execute(text(statement), values).mappings()), key=identity
        )
        for name, (statement, values) in readings(made, since=since, until=until).items()
    }


def identity(row: tuple[tuple[str, Any], ...]) -> str:
    return repr([value for name, value in row if name in ("time", "metric", "labels", "tier_id")])


def assert_same(found: Mapping[str, Rows], expected: Mapping[str, Rows]) -> None:
    for name, rows in expected.items():
        assert len(found[name]) == len(rows), name
        for mine, theirs in zip(found[name], rows, strict=True):
            wrong = {
                column: (value, wanted)
                for (column, value), (_, wanted) in zip(mine, theirs, strict=True)
                if not is_same(value, wanted, is_added=column in ADDED and ("_by" in name or "histogram" in name))
            }
            assert not wrong, (name, identity(mine), wrong)


def is_same(value: object, wanted: object, *, is_added: bool) -> bool:
    if is_added and isinstance(value, float) and isinstance(wanted, float):
        return math.isclose(value, wanted, rel_tol=1e-9, abs_tol=1e-6) or repr(value) == repr(wanted)
    return repr(value) == repr(wanted)


@PROFILE
@given(data=st.data(), seed=st.integers(0, 2**32), is_now=st.booleans())
def test_readers_get_the_same_of_both_forms(
    installation: Installation, data: st.DataObject, seed: int, *, is_now: bool
) -> None:
    at = datetime.now(UTC) - timedelta(minutes=data.draw(st.sampled_from([0, 180]))) if is_now else START
    with undone(installation) as connection:
        made = Made(catalog.read_installation(connection), at)
        made.fill(connection, seed)
        mark(connection, made, data)
        first, _ = made.spans(made.tiers[0])
        since = first + timedelta(seconds=data.draw(st.integers(-400, 14_000)))
        until = since + timedelta(seconds=data.draw(st.integers(0, 100_000)))
        expected = asked(connection, made, since=since, until=until)
        chosen = data.draw(st.lists(st.sampled_from(made.parts), unique=True))
        made.seal(connection, chosen)
        assert_same(asked(connection, made, since=since, until=until), expected)
        made.seal(connection, [part for part in made.parts if part not in chosen])
        assert_same(asked(connection, made, since=since, until=until), expected)
        assert connection.execute(text("SELECT count(*) FROM aggregator.rollup")).scalar_one() == 0


def mark(connection: Connection, made: Made, data: st.DataObject) -> None:
    """Some buckets wait to be rolled up."""
    for tier in made.tiers:
        for start in made.spans(tier):
            place, shard_id = data.draw(st.integers(0, 250)), data.draw(st.integers(1, 3))
            connection.execute(
                text(
                    "INSERT INTO aggregator.dirty (tier_id, shard_id, bucket, due, marked)"
                    " VALUES (:tier_id, :shard_id, :bucket, now(), now())"
                ),
                {"tier_id": tier.id, "shard_id": shard_id, "bucket": start + place * tier.ladder.step},
            )


def test_all_readings_find_something(installation: Installation) -> None:
    with undone(installation) as connection:
        made = Made(catalog.read_installation(connection), START)
        made.fill(connection, 3)
        made.seal(connection, made.parts)
        first, _ = made.spans(made.tiers[1])
        found = asked(connection, made, since=first, until=first + timedelta(hours=24))
        assert [name for name, rows in found.items() if not rows and "15000" not in name] == []


@pytest.mark.parametrize("name", ["range_sealed_late", "range_mixed_late"])
def test_what_is_sealed_after_a_plan_was_made_is_read(installation: Installation, name: str) -> None:
    interval_ms = 60_000 if name == "range_sealed_late" else 120_000
    with undone(installation) as connection:
        made = Made(catalog.read_installation(connection), START)
        made.fill(connection, 5)
        call = (
            "SELECT * FROM aggregator.metric_range('gauge_0', '2026-03-01T0800Z', '2026-03-01T1600Z',"  # noqa: S608
            f" {interval_ms})"
        )
        connection.execute(text(f"PREPARE kept AS {call}"))
        before = sorted(map(repr, connection.execute(text("EXECUTE kept")).all()))
        plan = "\n".join(connection.execute(text("EXPLAIN EXECUTE kept")).scalars())
        made.seal(connection, made.parts)
        again = "\n".join(connection.execute(text("EXPLAIN (ANALYZE) EXECUTE kept")).scalars())
        assert name in plan
        assert f"Function Scan on {name}" in again
        assert "never executed" not in next(line for line in again.splitlines() if name in line)
        assert sorted(map(repr, connection.execute(text("EXECUTE kept")).all())) == before
        connection.execute(text("DEALLOCATE kept"))
