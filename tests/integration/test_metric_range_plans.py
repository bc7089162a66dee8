"""`metric_range` as PostgreSQL plans it for the reader: put in the place of the call, and one tier only."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from urllib.parse import urlsplit

import psycopg2
import psycopg2.extensions
import pytest

from aggregator.embedded.postgres import EmbeddedPostgres
from aggregator.storage.reader_role import make_reader
from tests.databases import create_database, drop_database
from tests.installation import Installation, settings_for
from tests.ranged import START, fill

Session = psycopg2.extensions.connection
QUERY = (
    "EXPLAIN (ANALYZE, BUFFERS, TIMING OFF)"
    " SELECT {} FROM aggregator.metric_range('temperature', '2026-03-02T00:00Z', '2026-03-02T02:00Z', {})"
)


@pytest.fixture(scope="module")
def reading(
    postgres_server: EmbeddedPostgres, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Session]:
    """A reader's session."""
    url = create_database(postgres_server, "planned", template=migrated_template)
    with closing(Installation(url, START, settings_for(tmp_path_factory.mktemp("home")))) as made:
        fill(made)
        reader = made.database.run(lambda connection: make_reader(connection, "planned_reader", password=None))
        with closing(psycopg2.connect(reader.url(url))) as connected:
            connected.autocommit = True
            yield connected
    drop_database(postgres_server, "planned")
    with closing(psycopg2.connect(urlsplit(url)._replace(path="/postgres").geturl())) as owner:
        owner.autocommit = True
        owner.cursor().execute("DROP ROLE planned_reader")


def plan(reading: Session, statement: str) -> str:
    with reading.cursor() as cursor:
        cursor.execute(statement)
        return "\n".join(line for (line,) in cursor.fetchall())


def scanned(text: str) -> set[str]:
    """The tiers, or `samples`, whose partitions were scanned."""
    nodes = [line for line in text.splitlines() if "Scan" in line and "never executed" not in line]
    found = re.findall(r" on (rollup|sample)_(\w+?)_2\d{7}\b", "\n".join(nodes))
    return {tier if table == "rollup" else "samples" for table, tier in found}


TIERS = list({15_000: "samples", 60_000: "1m", 120_000: "1m", 300_000: "5m", 3_600_000: "1h", 86_400_000: "1d"}.items())


@pytest.mark.parametrize(("interval_ms", "tier"), TIERS)
def test_the_plan_has_the_tier_that_is_read_and_no_other(reading: Session, interval_ms: int, tier: str) -> None:
    text = plan(reading, QUERY.format("time, avg", interval_ms))
    assert not [line for line in text.splitlines() if "Function Scan" in line and "never executed" not in line]
    assert "metric = 'temperature'" in text
    assert scanned(text) == {tier}
    if tier != "samples":
        assert set(re.findall(r"\b(rollup|sample)_\w+?_2\d{7}", text)) == {"rollup"}
        assert set(re.findall(r"\brollup_(\w+?)_2\d{7}", text)) == {tier}


@pytest.mark.parametrize(("interval_ms", "tier"), TIERS)
def test_with_parameters_the_other_tiers_are_not_executed(reading: Session, interval_ms: int, tier: str) -> None:
    plan_for_any = (
        "SET plan_cache_mode = force_generic_plan; DEALLOCATE ALL;"
        " PREPARE ranged (text, timestamptz, timestamptz, bigint) AS"
        " SELECT time, avg FROM aggregator.metric_range($1, $2, $3, $4);"
    )
    arguments = f"('temperature', '2026-03-02T00:00Z', '2026-03-02T02:00Z', {interval_ms})"
    assert scanned(plan(reading, f"{plan_for_any} EXPLAIN (ANALYZE, TIMING OFF) EXECUTE ranged {arguments}")) == {tier}
    plan(reading, "RESET plan_cache_mode; SHOW plan_cache_mode")


def test_what_nobody_asks_for_is_not_computed(reading: Session) -> None:
    some = plan(reading, QUERY.format("time, avg", 600_000))
    everything = plan(reading, QUERY.format("*", 600_000))
    assert ("dirty" in some, "dirty" in everything) == (False, True)


def test_a_condition_that_everything_meets_is_none(reading: Session) -> None:
    everything = QUERY.format("time, avg", 60_000).replace("temperature", 'temperature{instance=~".*",absent=~".*"}')
    text = plan(reading, everything)
    assert "selector_matches" not in text
    assert "metric = 'temperature'" in text
    assert "selector_matches" in plan(reading, everything.replace('".*"', '"t.*"'))
