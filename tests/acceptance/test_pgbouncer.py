"""All of the product through a PgBouncer in transaction mode: nothing of it lives longer than its transaction."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import Installed
from tests.acceptance.machines import Machine, machines, rows
from tests.acceptance.pgbouncer import SESSIONS, PgBouncer
from tests.acceptance.whole import CONFIGURATION, assert_no_task_failed, use_everything

pytestmark = pytest.mark.acceptance

#: What one transaction would leave to the next client of its session.
LEFT = """
    SELECT 'advisory lock' FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database
    WHERE locktype = 'advisory' AND d.datname = current_database()
    UNION ALL SELECT 'temporary table' FROM pg_class WHERE relpersistence = 't' AND relkind = 'r'
"""
OURS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


@pytest.fixture
def pooler(empty_database_url: str, open_directory: Path, tmp_path: Path, installed: Installed) -> Iterator[PgBouncer]:
    binary = installed("pgbouncer")
    with PgBouncer(open_directory / f"pooler-{tmp_path.name}", binary=binary, database_url=empty_database_url) as made:
        yield made


def test_everything_works_through_a_pooler_that_gives_each_transaction_another_session(
    pooler: PgBouncer, empty_database_url: str, broker_url: str, cache_url: str, tmp_path: Path
) -> None:
    urls = {
        "AGGREGATOR_DATABASE_URL": pooler.url,
        "AGGREGATOR_BROKER_URL": broker_url,
        "AGGREGATOR_CACHE_URL": cache_url,
        "AGGREGATOR_WORKER_CONCURRENCY": "4",
    }
    machine = Machine(tmp_path / "home", "here", urls)
    machine.configure(CONFIGURATION)
    with machines(machine):
        use_everything(machine, empty_database_url)
        assert rows(empty_database_url, OURS)[0][0] <= SESSIONS
        assert_no_task_failed(machine)
    assert rows(empty_database_url, LEFT) == []
