"""What readers get of rollups is the same in both forms, and in any mix of them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, text

from aggregator.config.model import Summary
from aggregator.config.selector import parse_selector
from aggregator.storage import (
    catalog,
    explain,
    health_tiers,
    publish,
    query,
    recompute,
    summary_groups,
    tables,
    verify_picks,
)
from aggregator.storage.engine import Connection
from aggregator.storage.verify_picks import Within
from tests.effort import examples
from tests.forms import Made, readings
from tests.installation import Installation

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
PROFILE = settings(
    max_examples=examples(3),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # an example takes seconds
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
Rows = list[tuple[Any, ...]]
#: The order in which PostgreSQL adds up series, and open buckets, is its own, so the last bits of their sums are.
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
                if not is_same(value, wanted, is_added=column in ADDED and is_put_together(name))
            }
            assert not wrong, (name, identity(mine), wrong)


def is_put_together(name: str) -> bool:
    """Whether a reading adds up several series or buckets."""
    exact = name.endswith((" at 15000", " at 60000", " at 300000"))
    return " at " in name and not (exact and name.startswith("metric_range of"))


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


def answered(connection: Connection, made: Made, *, since: datetime, until: datetime) -> dict[str, object]:
    """What the service itself reads by SQL: summaries, queries, explanations, and for recomputation, health, rules."""
    minute, five = made.tiers
    found: dict[str, object] = {}
    scope = recompute.scope_of(connection, parse_selector('{job="made"}'))
    of_rule = replace(scope, shard_of_block={5: 3}, shard_of_target={3: 3}, whole_shards=frozenset({3}))
    for tier in (minute, five):
        for place, (metric, stat) in enumerate(product(("gauge_0", "counter_1", "output_2"), SUMMARIES)):
            summary = Summary(name=f"s{place}", select=metric, stat=stat, by=("instance",), window=until - since)
            for point in (None, timedelta(minutes=10)):
                answers = summary_groups.read_answers(
                    connection, tier, summary, summary_groups.Span(since, until, point)
                )
                found[f"summary {metric} {stat} {point} of {tier.name}"] = sorted(answers.items(), key=repr)
        points = query.read_points(
            connection,
            parse_selector("gauge_1"),
            tier=tier.name,
            start=since,
            finish=until,
            statistics=query.STATISTICS,
        )
        found[f"query of {tier.name}"] = sorted(map(repr, points))
        within = {"tier": tier, "since": since, "until": until}
        for series in explain.find_series(connection, parse_selector('{place="3"}'), limit=10):
            rollups = explain.read_rollups(connection, series, tier, since=since, until=until)
            found[f"explain {series.metric} {series.labels} of {tier.name}"] = rollups
        found[f"newest of {tier.name}"] = recompute.newest_rollup(connection, scope, **within)
        found[f"newest of inputs of {tier.name}"] = recompute.newest_input(connection, of_rule, **within)
        found[f"times of {tier.name}"] = recompute.rollup_times(connection, scope, **within)
        found[f"times of inputs of {tier.name}"] = recompute.input_times(connection, of_rule, **within)
    tiers = health_tiers.tiers_of(connection)
    for now in (until, until + timedelta(days=30)):
        found[f"health {now}"] = health_tiers.newest_buckets(connection, tiers, now=now)
    has_rollups = select(tables.tiers.c.name).where(publish.HAS_ROLLUPS)
    found["tiers with rollups"] = sorted(connection.execute(has_rollups).scalars())
    return found


SUMMARIES = ("avg", "sum", "min", "max", "last", "increase", "rate")


@PROFILE
@given(data=st.data(), seed=st.integers(0, 2**32))
def test_the_service_itself_finds_the_same_in_both_forms(
    installation: Installation, data: st.DataObject, seed: int
) -> None:
    with undone(installation) as connection:
        made = Made(catalog.read_installation(connection), START)
        made.fill(connection, seed)
        connection.execute(text("UPDATE aggregator.series SET metric = 'up' WHERE block_id = 1 AND position = 2"))
        connection.execute(
            text(
                "INSERT INTO aggregator.rule_inputs (block_id, rule_id, kind, outputs)"
                " SELECT block_id, rule.id, 1, '{}' FROM aggregator.rules AS rule, unnest(ARRAY[1, 3]) AS block_id"
            )
        )
        first, _ = made.spans(made.tiers[0])
        since = first + timedelta(minutes=data.draw(st.integers(-5, 300)))
        until = since + timedelta(minutes=data.draw(st.integers(20, 2_000)))
        expected = answered(connection, made, since=since, until=until)
        chosen = data.draw(st.lists(st.sampled_from(made.parts), unique=True))
        for parts in (chosen, [part for part in made.parts if part not in chosen]):
            made.seal(connection, parts)
            found = answered(connection, made, since=since, until=until)
            for name, one in expected.items():
                assert are_close(found[name], one), (name, found[name], one)


def are_close(found: object, wanted: object) -> bool:
    """Whether both are the same, but for the last bits of sums over series."""
    mine, theirs = (re.split(r"(-?\d+\.\d+(?:e[+-]\d+)?)", repr(one)) for one in (found, wanted))
    return len(mine) == len(theirs) and all(
        one == other or (place % 2 and math.isclose(float(one), float(other), rel_tol=1e-9, abs_tol=1e-6))
        for place, (one, other) in enumerate(zip(mine, theirs, strict=True))
    )


def test_verify_picks_what_is_sealed(installation: Installation) -> None:
    with undone(installation) as connection:
        made = Made(catalog.read_installation(connection), START)
        made.fill(connection, 5)
        minute = made.tiers[0]
        first, second = made.spans(minute)
        made.seal(connection, made.parts)
        for within in (Within(), Within(second, second + timedelta(hours=4))):
            picks = verify_picks.pick_buckets(connection, made.installation, size=40, within=within)
            stored = connection.execute(text("SELECT tier_id, shard_id, time FROM aggregator.metric_rollups")).all()
            known = {(row.tier_id, row.shard_id, row.time) for row in stored}
            assert picks
            assert {(pick.tier_id, pick.shard_id, pick.bucket) for pick in picks} <= known
        assert {pick.bucket >= second for pick in picks} == {True}
        assert first < second
