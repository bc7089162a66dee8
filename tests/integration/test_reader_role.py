"""`aggregator db reader`: a role that reads the views and nothing else, tested as that role."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import psycopg2
import psycopg2.extensions
import pytest
from sqlalchemy import Connection

from aggregator.cli.app import run
from aggregator.config.model import Tier
from aggregator.embedded.postgres import EmbeddedPostgres
from aggregator.storage import publish
from tests.installation import Installation
from tests.ranged import START, ranged

Session = psycopg2.extensions.connection
Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def past(
    postgres_server: EmbeddedPostgres, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    with ranged(postgres_server, migrated_template, tmp_path_factory.mktemp("home")) as made:
        yield made


@pytest.fixture
def typed(
    past: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Typed:
    """Run `aggregator db reader ...`; gives exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AGGREGATOR_DATABASE_URL", past.url)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(["db", "reader", *arguments])
        printed = capsys.readouterr()
        return code, printed.out.strip(), printed.err

    return call


@pytest.fixture
def role(past: Installation) -> Iterator[str]:
    """A name that no role has; gone afterwards."""
    name = f"grafana_{uuid.uuid4().hex[:8]}"
    yield name
    with session(past.url) as owner:
        if execute(owner, "SELECT FROM pg_roles WHERE rolname = %s", name) is not None:
            drop(owner, name)


@pytest.fixture
def reading(typed: Typed, role: str) -> Iterator[Session]:
    """A session of the reader."""
    code, url, _ = typed(role)
    assert code == 0
    with session(url) as connected:
        yield connected


def drop(owner: Session, role: str) -> None:
    """Drop a role with its rights; to take them away, one has to be it."""
    execute(owner, f"GRANT {role} TO CURRENT_USER; DROP OWNED BY {role}; DROP ROLE {role}")


def session(url: str) -> closing[Session]:
    connected = psycopg2.connect(url)
    connected.autocommit = True
    return closing(connected)


def execute(connected: Session, statement: str, *values: object) -> list[tuple[object, ...]] | None:
    """The rows of a statement; None where there are none."""
    with connected.cursor() as cursor:
        cursor.execute(statement, values or None)
        return cursor.fetchall() or None if cursor.description is not None else None


def test_the_reader_reads_views_and_calls_functions(reading: Session) -> None:
    counted = execute(reading, "SELECT count(*) FROM metric_range('temperature', %s, %s, 60000)", *day())
    assert counted == [(139,)]
    by = "SELECT count(*) FROM aggregator.metric_range_by('temperature', %s, %s, 60000, '{job}')"
    assert execute(reading, by, *day()) == counted
    assert execute(reading, "SELECT * FROM metric_names()") == [("requests_total",), ("temperature",)]
    assert execute(reading, "SELECT * FROM label_values('temperature', 'instance')") == [("t0",)]
    for view in ("samples", "metrics_1m", "metrics_1d", "metric_series", "sketches_1m"):
        execute(reading, f"SELECT count(*) FROM {view}")  # noqa: S608 - written here


def day() -> tuple[object, object]:
    return START, START + timedelta(days=1)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO aggregator.buckets_dirty (tier_id) VALUES (1)",
        "INSERT INTO aggregator.sources DEFAULT VALUES",
        "UPDATE aggregator.tiers SET active = false",
        "DELETE FROM aggregator.buckets_dirty",
        "CREATE TABLE aggregator.own (x integer)",
        "CREATE TABLE public.own (x integer)",
        "CREATE SCHEMA own",
        "CREATE ROLE own",
        "SELECT pg_read_file('/etc/passwd')",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "SELECT * FROM aggregator.series",
        "SELECT * FROM aggregator.rollup",
        "SELECT * FROM aggregator.rollup_1m",
        "SELECT * FROM aggregator.sample_frame",
        "SELECT * FROM aggregator.sources",
        "CREATE OR REPLACE VIEW aggregator.samples AS SELECT 1",
        "ALTER ROLE CURRENT_USER CREATEROLE",
    ],
)
def test_everything_else_is_refused_even_when_the_session_may_write(reading: Session, statement: str) -> None:
    execute(reading, "SET default_transaction_read_only = off")
    with pytest.raises(psycopg2.Error) as refused:
        execute(reading, statement)
    # 55000: a view of more than one table cannot be written to by anybody.
    assert refused.value.pgcode == ("55000" if "buckets_dirty" in statement else "42501")


def test_a_session_begins_read_only_and_with_limits(reading: Session) -> None:
    with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
        execute(reading, "CREATE TEMPORARY TABLE own (x integer)")
    shown = {name: execute(reading, f"SHOW {name}") for name in ("statement_timeout", "search_path", "timezone")}
    assert shown == {"statement_timeout": [("30s",)], "search_path": [("aggregator, public",)], "timezone": [("UTC",)]}
    limits = execute(reading, "SELECT rolconnlimit, rolinherit, rolsuper FROM pg_roles WHERE rolname = current_user")
    assert limits == [(20, False, False)]


def test_done_again_it_keeps_the_password_or_takes_the_new_one(typed: Typed, role: str, tmp_path: Path) -> None:
    _, first, _ = typed(role)
    code, second, _ = typed(role)
    assert (code, urlsplit(second).password) == (0, None)
    assert urlsplit(first).password is not None
    with session(first):
        pass
    file = tmp_path / "password"
    file.write_text("new: p@ss/word%\n")
    code, third, _ = typed(role, "--password-file", str(file))
    assert code == 0
    with session(third):
        pass
    with pytest.raises(psycopg2.OperationalError):
        session(first)


def test_views_that_come_later_can_be_read(past: Installation, reading: Session) -> None:
    added = Tier(name="15m", step=timedelta(minutes=15), retention=timedelta(days=90))
    settings = past.settings.model_copy(update={"tiers": (*past.settings.tiers, added)})

    def work(connection: Connection) -> None:
        publish.publish(connection, settings, config_hash="added", now=past.now)

    past.database.run(work)
    assert execute(reading, "SELECT count(*) FROM metrics_15m") == [(0,)]
    assert execute(reading, "SELECT tier FROM tiers_kept WHERE tier = '15m'") == [("15m",)]
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        execute(reading, "SELECT * FROM rollup_15m")


def test_sql_is_printed_and_nothing_is_done(past: Installation, typed: Typed, role: str) -> None:
    code, printed, _ = typed(role, "--print-sql")
    assert (code, printed.startswith(f"CREATE ROLE {role} LOGIN")) == (0, True)
    with session(past.url) as owner:
        assert execute(owner, "SELECT 1 FROM pg_roles WHERE rolname = %s", role) is None
        for statement in printed.splitlines():
            execute(owner, statement)
    assert typed(role, "--print-sql")[1].startswith(f"ALTER ROLE {role} LOGIN")


def test_where_roles_may_not_be_made_the_sql_is_printed(
    past: Installation, typed: Typed, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = f"plain_{role}"
    database = urlsplit(past.url).path[1:]
    with session(past.url) as owner:
        execute(owner, f"CREATE ROLE {plain} LOGIN PASSWORD 'p'")
    try:
        url = urlsplit(past.url)
        monkeypatch.setenv("AGGREGATOR_DATABASE_URL", f"postgresql://{plain}:p@{url.hostname}:{url.port}/{database}")
        code, printed, errors = typed(role)
        assert code == 1
        assert "may not make roles" in errors
        assert printed.startswith(f"CREATE ROLE {role} LOGIN")
        with session(past.url) as owner:
            for statement in printed.splitlines():
                execute(owner, statement)
        assert execute_as_owner(past, f"SELECT has_table_privilege('{role}', 'aggregator.samples', 'SELECT')")
    finally:
        with session(past.url) as owner:
            drop(owner, plain)


def execute_as_owner(past: Installation, statement: str) -> object:
    with session(past.url) as owner:
        found = execute(owner, statement)
    return found is not None and found[0][0]


@pytest.mark.parametrize("name", ["aggregator", "postgres", "pg_monitor", ""])
def test_a_role_that_is_more_than_a_reader_is_left_alone(typed: Typed, name: str) -> None:
    code, _, errors = typed(name)
    assert (code, len(errors.splitlines())) == (2, 1)
    assert "such as grafana" in errors


def test_an_empty_password_file_is_refused(typed: Typed, role: str, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    assert typed(role, "--password-file", str(tmp_path / "empty"))[0] == 2
    assert typed(role, "--password-file", str(tmp_path / "missing"))[0] == 2
