"""A managed PostgreSQL: the role owns its database, or only schema `aggregator`; also behind a pooler."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import psycopg2
import pytest

from aggregator.embedded.process import wait_until
from tests.acceptance.conftest import Installed
from tests.acceptance.machines import PATIENCE, Machine, ask, machines, rows, wait_for
from tests.acceptance.pgbouncer import SESSIONS, PgBouncer
from tests.acceptance.whole import CONFIGURATION, assert_no_task_failed, use_everything

pytestmark = pytest.mark.acceptance

ROLE, PASSWORD = "plain", "plain-password"
#: What a provider's first role may hand out: nothing.
PLAIN = f"""
    CREATE ROLE {ROLE} LOGIN NOSUPERUSER NOCREATEROLE NOCREATEDB NOREPLICATION NOBYPASSRLS PASSWORD '{PASSWORD}'
"""
#: Has a salt of its own each time.
VERIFIER = re.compile(r"SCRAM-SHA-256[^']+")
FEWEST_COLLECTIONS = "SELECT count(*) >= 3 FROM aggregator.collections WHERE finished_at IS NOT NULL"
#: What one transaction would leave to the next client of its session.
LEFT = """
    SELECT 'advisory lock' FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database
    WHERE locktype = 'advisory' AND d.datname = current_database()
    UNION ALL SELECT 'temporary table' FROM pg_class WHERE relpersistence = 't' AND relkind = 'r'
"""
OF_THE_ROLE = "SELECT count(*) <= %s FROM pg_stat_activity WHERE datname = current_database() AND usename = %s"


def execute(url: str, *statements: str) -> None:
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)


@pytest.fixture
def plain_url(empty_database_url: str) -> Iterator[str]:
    """The URL of a role without any right, yet, on a fresh database."""
    place = urlsplit(empty_database_url)
    # Who made the role may give it things and take them back; the role itself is a member of nothing.
    execute(empty_database_url, PLAIN, f"GRANT {ROLE} TO CURRENT_USER", "REVOKE ALL ON SCHEMA public FROM PUBLIC")
    yield place._replace(netloc=f"{ROLE}:{PASSWORD}@{place.hostname}:{place.port}").geturl()
    execute(
        empty_database_url, f"REASSIGN OWNED BY {ROLE} TO CURRENT_USER", f"DROP OWNED BY {ROLE}", f"DROP ROLE {ROLE}"
    )


@pytest.fixture
def pooler(plain_url: str, open_directory: Path, tmp_path: Path, installed: Installed) -> Iterator[PgBouncer]:
    """Gives each transaction another session of that role."""
    binary = installed("pgbouncer")
    with PgBouncer(open_directory / f"pooler-{tmp_path.name}", binary=binary, database_url=plain_url) as made:
        yield made


@pytest.fixture
def machine(plain_url: str, broker_url: str, cache_url: str, tmp_path: Path) -> Iterator[Machine]:
    urls = {
        "AGGREGATOR_DATABASE_URL": plain_url,
        "AGGREGATOR_BROKER_URL": broker_url,
        "AGGREGATOR_CACHE_URL": cache_url,
    }
    made = Machine(tmp_path / "home", "here", urls)
    made.configure(CONFIGURATION)
    with machines(made):
        yield made


def test_everything_works_for_a_role_that_owns_its_database_alone_each_transaction_in_another_session(
    machine: Machine, pooler: PgBouncer, empty_database_url: str
) -> None:
    """Nothing of the product needs another right, or lives longer than its transaction."""
    machine.environment |= {"AGGREGATOR_DATABASE_URL": pooler.url, "AGGREGATOR_WORKER_CONCURRENCY": "4"}
    database = urlsplit(empty_database_url).path.lstrip("/")
    execute(empty_database_url, f"ALTER DATABASE {database} OWNER TO {ROLE}")
    try:
        use_everything(machine, empty_database_url)
        # Of one that was closed the server may hear a moment later.
        wait_for(empty_database_url, OF_THE_ROLE, SESSIONS, ROLE)
        assert_no_task_failed(machine)
        owners = rows(empty_database_url, "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'aggregator'")
        assert owners == [(ROLE,)]
    finally:
        machine.stop()
        wait_until(lambda: not rows(empty_database_url, LEFT), PATIENCE)
        left = rows(empty_database_url, LEFT)
        execute(empty_database_url, f"ALTER DATABASE {database} OWNER TO CURRENT_USER")
    assert left == []


def test_a_schema_that_somebody_else_made_for_the_role_is_enough(machine: Machine, empty_database_url: str) -> None:
    execute(empty_database_url, f"CREATE SCHEMA aggregator AUTHORIZATION {ROLE}")
    machine.run("aggregator", "db", "migrate")
    machine.start_worker()
    machine.run("aggregator", "collect", "often")
    machine.run("aggregator", "maintain")
    machine.start("celery", "-A", "aggregator", "beat")
    wait_for(empty_database_url, FEWEST_COLLECTIONS)


def test_without_a_schema_and_the_right_to_make_one_the_migration_says_so(machine: Machine) -> None:
    done = machine.run("aggregator", "db", "migrate", exit_code=None)
    assert done.returncode != 0
    assert "permission denied for database" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_is_made_by_somebody_who_may_from_the_sql_that_is_printed(
    machine: Machine, empty_database_url: str
) -> None:
    execute(empty_database_url, f"CREATE SCHEMA aggregator AUTHORIZATION {ROLE}")
    machine.run("aggregator", "db", "migrate")
    (machine.folder / "password").write_text("of-the-reader\n")
    words = ("aggregator", "db", "reader", "plain_reader", "--password-file", "password")
    refused = machine.run(*words, exit_code=1)
    assert "may not make roles" in refused.stderr
    shown = machine.run(*words, "--print-sql").stdout
    assert [VERIFIER.sub("", sql) for sql in (refused.stdout, shown)] == [VERIFIER.sub("", shown)] * 2
    assert VERIFIER.search(shown)
    assert "of-the-reader" not in refused.stdout + refused.stderr
    execute(empty_database_url, *refused.stdout.split(";\n")[:-1])
    place = urlsplit(empty_database_url)
    reader = place._replace(netloc=f"plain_reader:of-the-reader@{place.hostname}:{place.port}").geturl()
    assert ask(reader, "SELECT count(*) FROM aggregator.metrics_1m") == 0
    gone = ("GRANT plain_reader TO CURRENT_USER", "DROP OWNED BY plain_reader", "DROP ROLE plain_reader")
    execute(empty_database_url, *gone)
