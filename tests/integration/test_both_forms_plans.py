"""A range over a mix of both forms reads the sealed rows of its spans, and the open partitions of its days."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from aggregator.storage import catalog
from aggregator.storage.engine import Connection
from tests.forms import Made
from tests.installation import Installation
from tests.integration.test_both_forms import undone

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
#: Within the second span of 1m, of which a day has six.
SINCE, UNTIL = START + timedelta(minutes=30), START + timedelta(minutes=90)
_IN_SPAN = "tier_id = 1 AND start = '2026-03-01T12:00Z'"


def explained(connection: Connection, statement: str) -> str:
    """The plan, executed."""
    found = connection.execute(text(f"EXPLAIN (ANALYZE, TIMING OFF) {statement}"), {"since": SINCE, "until": UNTIL})
    return "\n".join(found.scalars())


def rows_read(plan: str, table: str) -> int:
    """How many rows of a table the plan's scans gave and threw away."""
    found = 0.0
    for node in re.split(r"\n\s*->\s*", plan):
        if re.search(rf" on {table}_1m_\d+", node.split("\n")[0]) and (
            given := re.search(r"actual rows=([\d.]+) loops=(\d+)", node)
        ):
            removed = sum(float(one) for one in re.findall(r"Rows Removed by \w+: (\d+)", node))
            found += (float(given[1]) + removed) * int(given[2])
    return round(found)


def days(plan: str, table: str) -> set[str]:
    """The partitions of a table in the plan, by the day that they begin with."""
    return set(re.findall(rf"\b{table}_1m_(\d{{8}})\b", plan))


RANGES = {
    "exact": "SELECT time, avg FROM aggregator.metric_range('gauge_0', :since, :until, 60000)",
    "regrouped": "SELECT time, avg FROM aggregator.metric_range('gauge_0', :since, :until, 120000)",
    "view": "SELECT time, avg FROM aggregator.metrics_1m WHERE metric = 'gauge_0' AND time >= :since AND time < :until"
    " AND span > CAST(:since AS timestamptz) - interval '4 h' AND span < :until",
}


@pytest.mark.parametrize("name", RANGES)
def test_only_sealed_rows_of_its_spans_are_read(installation: Installation, name: str) -> None:
    with undone(installation) as connection:
        made = Made(catalog.read_installation(connection), START - timedelta(hours=1))
        made.fill(connection, 1)
        made.seal(connection, [part for part in made.parts if part.shard_id != 2])
        connection.execute(text("ANALYZE aggregator.series, aggregator.sealed, aggregator.clock"))
        series = connection.execute(text(f"SELECT count(*) FROM aggregator.sealed WHERE {_IN_SPAN}")).scalar_one()  # noqa: S608 - ours
        of_metric = connection.execute(
            text(
                "SELECT count(*) FROM aggregator.sealed AS r JOIN aggregator.series AS s USING (block_id, position)"  # noqa: S608
                f" WHERE s.metric = 'gauge_0' AND {_IN_SPAN}"
            )
        ).scalar_one()
        plan = explained(connection, RANGES[name])
        assert 0 < of_metric <= rows_read(plan, "sealed") <= (series if name == "view" else of_metric)
        for table in ("sealed", "clock", "rollup"):
            assert days(plan, table) == {"20260301"}


@pytest.mark.parametrize("name", ["exact", "regrouped"])
def test_the_series_of_both_forms_are_found_once(installation: Installation, name: str) -> None:
    with undone(installation) as connection:
        made = Made(catalog.read_installation(connection), START - timedelta(hours=1))
        made.fill(connection, 1)
        made.seal(connection, [part for part in made.parts if part.shard_id != 2])
        plan = explained(connection, RANGES[name])
        assert rows_read(plan, "sealed") > 0
        assert rows_read(plan, "rollup") > 0
        assert plan.count("CTE own") == 1


def test_a_range_without_anything_sealed_has_no_sealed_rows_in_its_plan(installation: Installation) -> None:
    with undone(installation) as connection:
        made = Made(catalog.read_installation(connection), START - timedelta(hours=1))
        made.fill(connection, 1)
        first, _ = made.spans(made.tiers[0])
        made.seal(connection, [part for part in made.parts if part.start == first])
        for name in ("exact", "regrouped"):
            plan = explained(connection, RANGES[name])
            assert "sealed_1m" not in plan
            assert "sealed_late" in plan or "mixed_late" in plan
            assert "never executed" in plan


def test_what_nobody_asks_for_is_not_unpacked(installation: Installation) -> None:
    with undone(installation) as connection:
        made = Made(catalog.read_installation(connection), START - timedelta(hours=1))
        made.fill(connection, 1)
        made.seal(connection, made.parts)
        found = connection.execute(
            text("EXPLAIN (VERBOSE) SELECT time, avg FROM aggregator.metric_range('gauge_0', :since, :until, 60000)"),
            {"since": SINCE, "until": UNTIL},
        )
        plan = "\n".join(found.scalars())
        assert "sum_shorts, 0" in plan
        assert "dirty" not in re.sub(r"NULL::[a-z ]+", "", plan)
        for unused in ("min", "max", "first", "m2", "increase"):
            assert f"{unused}_shorts, 0" not in plan
