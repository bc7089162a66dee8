"""Further sessions on a test's database, and waiting until one of them waits for another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from sqlalchemy import text

from aggregator.embedded.process import wait_until
from aggregator.storage.engine import Database

PATIENCE = timedelta(seconds=60)


@contextmanager
def session(url: str) -> Iterator[Database]:
    """One more session on the same database."""
    database = Database.connect(url, application="test")
    try:
        yield database
    finally:
        database.dispose()


def wait_until_gone(url: str, application: str) -> None:
    """Wait until no session of an application is left in this database: what was killed may linger in the server."""
    statement = text(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = :name AND datname = current_database()"
    )
    with session(url) as watch:
        assert wait_until(
            lambda: watch.run(lambda found: found.execute(statement, {"name": application}).scalar_one()) == 0, PATIENCE
        )


def wait_for_blocked(url: str) -> None:
    """Wait until a session of this database waits for a lock."""
    statement = text(
        "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)"
        " WHERE NOT granted AND datname = current_database()"
    )
    with session(url) as watch:
        assert wait_until(lambda: watch.run(lambda found: found.execute(statement).scalar_one()) > 0, PATIENCE)
