"""Databases of a test on the session's server: made from a template, and dropped whoever is still connected."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from urllib.parse import urlsplit

import psycopg2

from aggregator.embedded.postgres import EmbeddedPostgres

_FIRST_WITH_STRATEGIES = 150_000

# Sessions of our own role only. `DROP DATABASE ... WITH (FORCE)` also ends others, and is refused outright while an
# autovacuum worker, which is the superuser's, looks at the database; without it that worker is asked to leave.
_END_OWN_SESSIONS = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = %s AND usename = current_user AND pid <> pg_backend_pid()
"""


def database_of(server: EmbeddedPostgres, name: str) -> str:
    """The URL of a database of the server."""
    return urlsplit(server.url)._replace(path=f"/{name}").geturl()


def create_database(server: EmbeddedPostgres, name: str, *, template: str = "template1") -> str:
    """Make a database; gives its URL."""
    with _administration(server) as connection, connection.cursor() as cursor:
        # Since 15 every page is logged unless one says otherwise, which takes three times as long.
        strategy = " STRATEGY file_copy" if connection.server_version >= _FIRST_WITH_STRATEGIES else ""
        cursor.execute(f"CREATE DATABASE {name} TEMPLATE {template}{strategy}")
    return database_of(server, name)


def drop_database(server: EmbeddedPostgres, name: str) -> None:
    """Drop a database with all that still use it."""
    with _administration(server) as connection, connection.cursor() as cursor:
        cursor.execute(_END_OWN_SESSIONS, (name,))
        cursor.execute(f"DROP DATABASE {name}")


@contextmanager
def _administration(server: EmbeddedPostgres) -> Iterator[psycopg2.extensions.connection]:
    with closing(psycopg2.connect(database_of(server, "postgres"))) as connection:
        connection.autocommit = True
        yield connection
