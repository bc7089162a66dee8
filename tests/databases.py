"""Databases of a test on the session's server: made from a template, and dropped whoever is still connected."""

from __future__ import annotations

from contextlib import closing
from urllib.parse import urlsplit

import psycopg2

from aggregator.embedded.postgres import EmbeddedPostgres

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
    _administer(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    return database_of(server, name)


def drop_database(server: EmbeddedPostgres, name: str) -> None:
    """Drop a database with all that still use it."""
    _administer(server, _END_OWN_SESSIONS, name)
    _administer(server, f"DROP DATABASE {name}")


def _administer(server: EmbeddedPostgres, statement: str, *values: str) -> None:
    with closing(psycopg2.connect(database_of(server, "postgres"))) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement, values or None)
