"""The oldest PostgreSQL at hand: samples become rollups, and the reader's functions inlined plans, as on the newest."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from aggregator.embedded.postgres import EmbeddedPostgres
from aggregator.exposition.series import Kind
from aggregator.rollups.buckets import from_milliseconds
from aggregator.storage.migrate import upgrade
from aggregator.storage.reader_role import make_reader
from tests.installation import Installation, settings_for
from tests.integration.test_metric_range_plans import scanned
from tests.ranged import START, fill, metric_range, samples

#: Where Debian keeps every version that is installed.
VERSIONS = Path("/usr/lib/postgresql")
OLDEST_SUPPORTED = 14
FORMS = {15_000: "raw", 60_000: "1m", 120_000: "1m", 3_600_000: "1h"}


def oldest_binaries() -> Path:
    """The binaries of the oldest supported version that is installed."""
    found = {int(path.parents[1].name): path.parent for path in VERSIONS.glob("[0-9]*/bin/postgres")}
    supported = sorted(major for major in found if major >= OLDEST_SUPPORTED)
    if not supported:
        (pytest.fail if os.environ.get("AGGREGATOR_TEST_REQUIRE_SERVERS") else pytest.skip)(
            "no PostgreSQL is installed beside the wheel's"
        )
    return found[supported[0]]


@pytest.fixture(scope="module")
def old(open_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation on it with two and a half hours of samples, rolled up."""
    with EmbeddedPostgres(open_directory / "old", binaries=oldest_binaries(), port=None, fsync=False) as server:
        upgrade(server.url)
        with closing(Installation(server.url, START, settings_for(tmp_path_factory.mktemp("home")))) as made:
            fill(made)
            yield made


@pytest.mark.parametrize(("interval_ms", "tier"), FORMS.items())
def test_every_form_of_a_range_has_all_samples(old: Installation, interval_ms: int, tier: str) -> None:
    given = samples(Kind.GAUGE)
    found = metric_range(old, "temperature", interval_ms)
    assert {row["tier"] for row in found} == {tier}
    assert {row["time"]: row["count"] for row in found} == counts(given, interval_ms)


def counts(given: dict[int, float], interval_ms: int) -> dict[object, int]:
    starts = [at // interval_ms * interval_ms for at in given]
    return {from_milliseconds(start): starts.count(start) for start in starts}


@pytest.mark.parametrize(("interval_ms", "tier"), FORMS.items())
def test_the_reader_s_plan_has_one_tier(old: Installation, interval_ms: int, tier: str) -> None:
    reader = old.database.run(lambda connection: make_reader(connection, "old_reader", password="old"))
    with closing(psycopg2.connect(reader.url(old.url))) as session, session.cursor() as cursor:
        cursor.execute(
            "EXPLAIN (ANALYZE, TIMING OFF) SELECT time, avg FROM aggregator.metric_range('temperature', %s, %s, %s)",
            (START, from_milliseconds(max(samples(Kind.GAUGE))), interval_ms),
        )
        plan = "\n".join(line for (line,) in cursor.fetchall())
    called = [line for line in plan.splitlines() if "Function Scan" in line and "never executed" not in line]
    assert not called
    assert scanned(plan) == {"samples" if tier == "raw" else tier}
