"""A reader's session on real data, for whatever Grafana would ask."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg2
import psycopg2.extensions
import pytest

from aggregator.embedded.ports import free_port
from aggregator.embedded.postgres import EmbeddedPostgres
from tests.dashboards.files import Query
from tests.dashboards.stock import SPAN, stocked
from tests.integration.test_prometheus_servers import get_when_ready, running

EXPORTER = "prometheus-node-exporter"

#: PostgreSQL's type by its number: what Grafana makes of a column follows from it.
TYPES = {16: "boolean", 20: "number", 21: "number", 23: "number", 25: "text", 700: "number", 701: "number"} | {
    1114: "time",
    1184: "time",
    1700: "number",
    3802: "jsonb",
    705: "text",
}


@dataclass(frozen=True)
class Answer:
    """What a query gave: the columns with their types, and the rows."""

    columns: dict[str, str]
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class Reading:
    """A reader's session, and the span of the data."""

    session: psycopg2.extensions.connection
    finish: datetime

    @property
    def start(self) -> datetime:
        """When the data begins."""
        return self.finish - SPAN

    def ask(self, sql: str) -> Answer:
        """The answer to one query."""
        with self.session.cursor() as cursor:
            cursor.execute(sql)
            assert cursor.description
            names = [column.name for column in cursor.description]
            assert len(set(names)) == len(names), names
            types = {column.name: TYPES[column.type_code] for column in cursor.description}
            return Answer(types, [dict(zip(names, row, strict=True)) for row in cursor.fetchall()])


def assert_shape(query: Query, answer: Answer) -> None:
    """What Grafana can show: of a time series, a time in order, numbers, and names that no two of one time share."""
    assert answer.rows, f"{query.owner}: nothing"
    assert set(answer.columns.values()) <= {"time", "number", "text"}, query.owner
    if query.format == "time_series":
        times = [row["time"] for row in answer.rows]
        assert answer.columns["time"] == "time"
        assert times == sorted(times), query.owner
        assert "number" in answer.columns.values()
        names = [name for name, kind in answer.columns.items() if kind != "number"]
        assert len({tuple(row[name] for name in names) for row in answer.rows}) == len(answer.rows), query.owner
        numbers = [name for name, kind in answer.columns.items() if kind == "number"]
        texts = {name for name, kind in answer.columns.items() if kind == "text"}
        # Two lines of one name could not be told apart; one that is named by a label that it lacks has an empty name.
        assert texts == query.labels, query.owner
        assert ("__field.name" in query.name) == (len(numbers) > 1), query.owner
        assert all(any(row[name] is not None for row in answer.rows) for name in numbers), query.owner


@pytest.fixture(scope="session")
def exporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str | None]:
    """Where a node_exporter listens; None where none is installed and none has to be."""
    if shutil.which(EXPORTER) is None and os.environ.get("AGGREGATOR_TEST_REQUIRE_SERVERS") != "1":
        yield None
        return
    place = f"127.0.0.1:{free_port()}"
    with running(EXPORTER, f"--web.listen-address={place}", cwd=tmp_path_factory.mktemp("exporter")):
        get_when_ready(f"http://{place}/metrics", "node_load1")
        yield place


@pytest.fixture(scope="session")
def reading(
    postgres_server: EmbeddedPostgres,
    migrated_template: str,
    tmp_path_factory: pytest.TempPathFactory,
    exporter: str | None,
) -> Iterator[Reading]:
    """A reader of an hour of data that ends now."""
    home = tmp_path_factory.mktemp("home")
    with (
        stocked(postgres_server, migrated_template, home, exporter=exporter) as (url, finish),
        closing(psycopg2.connect(url)) as session,
    ):
        session.autocommit = True
        yield Reading(session, finish)
