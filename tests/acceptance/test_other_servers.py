"""An installation moves, to another broker or into a database from a backup: its numbers stay, and it goes on."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aggregator.embedded.postgres import EmbeddedPostgres
from aggregator.embedded.process import wait_until
from aggregator.embedded.wheels import postgres_binaries
from tests.acceptance.conftest import missing
from tests.acceptance.machines import BEAT, PATIENCE, Machine, machines, rows, wait_for
from tests.acceptance.whole import (
    CONFIGURATION,
    TIME_PASSES,
    assert_every_slot_is_accounted_for,
    contents,
    has_sealed,
    import_old,
    settle,
)
from tests.databases import create_database, drop_database

if TYPE_CHECKING:
    from tests.acceptance.rabbitmq import RabbitMQ

pytestmark = pytest.mark.acceptance

GOES_ON = """
    SELECT count(*) >= 6 FROM aggregator.collections
    WHERE started_at > %s AND NOT by_hand AND finished_at IS NOT NULL AND 1 = ALL (outcome)
"""


@pytest.fixture
def machine(database_url: str, broker_url: str, cache_url: str, tmp_path: Path) -> Machine:
    urls = {
        "AGGREGATOR_DATABASE_URL": database_url,
        "AGGREGATOR_BROKER_URL": broker_url,
        "AGGREGATOR_CACHE_URL": cache_url,
    }
    machine = Machine(tmp_path / "home", "here", urls)
    machine.configure(CONFIGURATION)
    return machine


def begin(machine: Machine, url: str) -> None:
    began = datetime.now(UTC)
    machine.run("aggregator", "db", "migrate")
    machine.start_worker()
    machine.start(*BEAT)
    wait_for(url, GOES_ON, began)


def test_from_redis_to_rabbitmq_every_slot_is_accounted_for_and_no_number_changes(
    machine: Machine, database_url: str, rabbitmq: RabbitMQ
) -> None:
    with machines(machine):
        begin(machine, database_url)
        # Beat and worker stop, with whatever is still in the queues; the other broker knows nothing of it.
        moved = settle(machine, database_url)
        before = contents(database_url, before=moved)
        machine.environment["AGGREGATOR_BROKER_URL"] = rabbitmq.url
        begin(machine, database_url)
        until = settle(machine, database_url)
        assert_every_slot_is_accounted_for(machine, database_url)
        machine.run("aggregator", "verify", "--from", "-5m")
        after = contents(database_url, before=moved)
        assert after["samples"] == before["samples"]
        assert len(contents(database_url, before=until)["samples"]) > len(before["samples"])


@pytest.fixture(scope="module")
def postgres_programs() -> Path:
    """Where pg_dump and pg_restore of the server's version are: the wheel's, or Debian's where that is tested."""
    for folder in (postgres_binaries(), *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)):
        if (folder / "pg_dump").exists() and (folder / "pg_restore").exists():
            return folder
    missing("pg_dump")
    raise AssertionError


def test_a_restored_backup_has_every_row_of_every_view_and_goes_on(
    machine: Machine, postgres_server: EmbeddedPostgres, postgres_programs: Path, tmp_path: Path
) -> None:
    database_url, restored = machine.urls["AGGREGATOR_DATABASE_URL"], create_database(postgres_server, "restored")
    try:
        with machines(machine):
            begin(machine, database_url)
            start = import_old(machine)
            rows(database_url, TIME_PASSES)
            assert wait_until(lambda: has_sealed(machine, database_url), PATIENCE)
            settle(machine, database_url)
            dump = str(tmp_path / "backup.dump")
            run(postgres_programs / "pg_dump", "--format=custom", "--schema=aggregator", f"--file={dump}", database_url)
            run(postgres_programs / "pg_restore", "--no-owner", "--exit-on-error", f"--dbname={restored}", dump)
            now = datetime.now(UTC)
            before, after = contents(database_url, before=now), contents(restored, before=now)
            assert len(before["samples"]) > 1_000
            assert before == after
            machine.environment["AGGREGATOR_DATABASE_URL"] = restored
            begin(machine, restored)
            machine.stop()
            machine.run(
                "aggregator", "verify", "--from", start.isoformat(), "--to", (start + timedelta(hours=1)).isoformat()
            )
    finally:
        drop_database(postgres_server, "restored")


def run(*words: object) -> None:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
