"""From an empty database to head: the same tables as the code describes, however many migrate at once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text

from aggregator.stages.maintain import Maintain
from aggregator.storage import migrate, partitions
from aggregator.storage.bootstrap import bring_up
from aggregator.storage.engine import make_engine
from aggregator.storage.tables import SCHEMA, metadata
from tests.installation import Installation, settings_for


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    # A schema that is first in the search path is reflected without its name, and a role `aggregator` has it there.
    engine = make_engine(url + "?options=-csearch_path%3Dpublic", application="test")
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def differences(connection: Connection) -> list[Any]:
    """What alembic would change; partitions are made by the code and not by migrations."""
    partitions = set(
        connection.execute(text("SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid")).scalars()
    )

    def is_ours(found: Any, name: str | None, kind: str, is_reflected: bool, _other: Any) -> bool:  # noqa: FBT001 - alembic calls it so
        table = name if kind == "table" else getattr(getattr(found, "table", None), "name", None)
        return not (is_reflected and table in {*partitions, "alembic_version"})

    context = MigrationContext.configure(
        connection,
        opts={
            "include_schemas": True,
            "include_name": lambda name, kind, _parents: kind != "schema" or name == SCHEMA,
            "include_object": is_ours,
            "compare_type": True,
            "version_table_schema": SCHEMA,
        },
    )
    return list(compare_metadata(context, metadata))


def test_head_is_what_the_code_describes(empty_database_url: str) -> None:
    migrate.upgrade(empty_database_url)
    with connected(empty_database_url) as connection:
        assert differences(connection) == []
        assert migrate.current_revision(connection) == migrate.head_revision()


def test_an_installation_with_partitions_differs_no_more(database_url: str, tmp_path: Path) -> None:
    with closing(Installation(database_url, datetime(2026, 3, 1, tzinfo=UTC), settings_for(tmp_path))):
        pass
    with connected(database_url) as connection:
        assert differences(connection) == []


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE aggregator.targets ALTER COLUMN weight TYPE bigint",
        "ALTER TABLE aggregator.targets DROP COLUMN last_error",
        "DROP INDEX aggregator.dirty_due_idx",
    ],
)
def test_the_comparison_sees_what_a_migration_forgot(database_url: str, change: str) -> None:
    with connected(database_url) as connection:
        connection.execute(text(change))
        assert len(differences(connection)) == 1


def test_a_second_migration_of_the_same_database_changes_nothing(database_url: str) -> None:
    migrate.upgrade(database_url)
    with connected(database_url) as connection:
        assert migrate.current_revision(connection) == migrate.head_revision()


def test_an_empty_database_has_no_revision(empty_database_url: str) -> None:
    with connected(empty_database_url) as connection:
        assert migrate.current_revision(connection) is None


def test_migrators_at_once_wait_for_each_other(empty_database_url: str) -> None:
    code = "import sys; from aggregator.storage.migrate import upgrade; sys.stdin.read(1); upgrade(sys.argv[1])"
    migrators = [
        subprocess.Popen(
            [sys.executable, "-c", code, empty_database_url], stdin=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(3)
    ]
    for migrator in migrators:
        assert migrator.stdin is not None
        migrator.stdin.write(b".")
        migrator.stdin.flush()
    said = [migrator.communicate(timeout=30)[1].decode() for migrator in migrators]
    assert [migrator.returncode for migrator in migrators] == [0, 0, 0], said
    with connected(empty_database_url) as connection:
        assert differences(connection) == []


def test_who_does_not_publish_still_makes_what_a_newer_version_needs(database_url: str, tmp_path: Path) -> None:
    now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    with closing(Installation(database_url, now, settings_for(tmp_path))) as installation:
        database = installation.database
        database.run(lambda found: found.execute(text("DROP TABLE aggregator.sketch_1m CASCADE")))
        assert not bring_up(database_url, settings_for(tmp_path, AGGREGATOR_NODE="other"), now=now)
        assert Maintain(database, "test").run(clock=lambda: now) is not None
        found = database.run(
            lambda found: partitions.existing(found, partitions.Partitioned("sketch_1m", timedelta(days=1)))
        )
    assert now.replace(hour=0) in [partition.start for partition in found]
