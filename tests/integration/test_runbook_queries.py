"""Every statement of a runbook runs as it is written, on the schema of this version."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import psycopg2
import pytest

from aggregator.embedded.postgres import EmbeddedPostgres
from tests.alerts import RUNBOOKS, blocks
from tests.databases import create_database, drop_database

QUERIES = sorted({query for book in RUNBOOKS.glob("*.md") for query in blocks(book, "sql")})


@pytest.fixture(scope="module")
def url(postgres_server: EmbeddedPostgres, migrated_template: str) -> Iterator[str]:
    yield create_database(postgres_server, "runbooks", template=migrated_template)
    drop_database(postgres_server, "runbooks")


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: " ".join(query.split())[:60])
def test_a_statement_of_a_runbook_runs_and_only_reads(url: str, query: str) -> None:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        connection.set_session(readonly=True)
        cursor.execute(query)
        assert cursor.description
