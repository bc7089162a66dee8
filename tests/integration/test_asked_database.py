"""One statement that only reads, on a real server: what is refused, what it becomes, and that asking always ends."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta

import psycopg2
import pytest

from aggregator.errors import QueryRefusedError, ServerUnreachableError, UsageError
from aggregator.storage import asked_database
from aggregator.storage.asked_database import Answer, Limits, ask
from aggregator.storage.json_values import json_value
from tests.sessions import wait_until_gone

APPLICATION = "aggregator asks"
LIMITS = Limits(timedelta(seconds=20), rows=1_000, size_bytes=1_000_000)
SETUP = """
    CREATE TABLE orders (customer text, total numeric);
    INSERT INTO orders VALUES ('ann', 10), ('bob', 2.5);
    CREATE SEQUENCE numbers;
    CREATE FUNCTION writes() RETURNS int LANGUAGE plpgsql AS $$
    BEGIN INSERT INTO orders VALUES ('eve', 1); RETURN 1; END $$;
    CREATE FUNCTION swallows() RETURNS int LANGUAGE plpgsql AS $$
    BEGIN INSERT INTO orders VALUES ('eve', 1); RETURN 1; EXCEPTION WHEN OTHERS THEN RETURN 0; END $$;
"""


@pytest.fixture
def shop(empty_database_url: str) -> Iterator[str]:
    """A database of somebody's own; afterwards it must be as it was."""
    with closing(psycopg2.connect(empty_database_url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(SETUP)
    yield empty_database_url
    wait_until_gone(empty_database_url, APPLICATION)
    with closing(psycopg2.connect(empty_database_url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT customer, total FROM orders ORDER BY 1")
        assert [row[0] for row in cursor.fetchall()] == ["ann", "bob"]
        cursor.execute("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'")
        assert cursor.fetchone() == (1,)


def asking(url: str, sql: str, limits: Limits = LIMITS) -> Answer:
    return ask(url, sql, limits=limits, application=APPLICATION)


def test_rows_come_with_their_columns_in_order(shop: str) -> None:
    found = asking(shop, "SELECT total, customer FROM orders WHERE customer LIKE '%a%' ORDER BY 1 DESC; ")
    assert found.columns == ("total", "customer")
    assert [tuple(map(json_value, row)) for row in found.rows] == [(10, "ann")]
    assert asking(shop, "SELECT 1 WHERE false") == Answer(("?column?",), [])
    assert len(asking(shop, "SELECT generate_series(1, 1000)").rows) == 1_000
    assert asking(shop, "TABLE orders").columns == ("customer", "total")
    assert asking(shop, "SHOW transaction_read_only").rows == [("on",)]


def test_the_scheme_that_people_write_is_understood(shop: str) -> None:
    assert asking(shop.replace("postgresql://", "postgres://"), "SELECT 1 AS one").rows == [(1,)]


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("SELECT 1; COMMIT; DELETE FROM orders", "multi-query plan"),
        ("COMMIT; DROP TABLE orders; SELECT 1", "multi-query plan"),
        ("COMMIT", "COMMIT query"),
        ("DELETE FROM orders", "DELETE query"),
        ("DELETE FROM orders RETURNING *", "writes"),
        ("WITH gone AS (DELETE FROM orders RETURNING *) SELECT * FROM gone", "writes"),
        ("INSERT INTO orders VALUES ('eve', 1) RETURNING total", "writes"),
        ("SELECT writes()", "writes"),
        ("SELECT set_config('transaction_read_only', 'off', true), writes()", "read-write mode"),
        ("SET TRANSACTION READ WRITE", "SET query"),
        ("SELECT nextval('numbers')", "writes"),
        ("SELECT * FROM orders FOR UPDATE", "writes"),
        ("SELECT lo_create(0)", "writes"),
        ("EXPLAIN ANALYZE DELETE FROM orders", "writes"),
        ("CREATE TABLE more AS SELECT 1", "CREATE TABLE AS query"),
        ("SELECT 1 INTO more", "SELECT INTO query"),
        ("COPY orders TO PROGRAM 'cat'", "COPY query"),
        ("COPY orders TO STDOUT", "COPY query"),
        ("DO $x$ BEGIN COMMIT; END $x$", "DO query"),
        ("$$; COMMIT; DROP TABLE orders; --", "syntax error|unterminated"),
        ("SELEC 1", "syntax error"),
        ("", "one statement"),
        ("SELECT * FROM nothing", "does not exist"),
        ("SELECT 1 / 0", "division by zero"),
        ("SELECT pg_read_file('/etc/passwd')", "permission denied"),
        ("SELECT 1 AS a, 2 AS a", "two columns are named a"),
        ("SELECT DATE '0044-03-15 BC'", "cannot be read.*cast it to text"),
    ],
)
def test_what_writes_is_several_statements_or_fails_is_refused(shop: str, sql: str, reason: str) -> None:
    with pytest.raises(QueryRefusedError, match=reason) as refused:
        asking(shop, sql)
    assert "\n" not in str(refused.value)


def test_a_function_that_hides_its_failure_has_written_nothing(shop: str) -> None:
    assert asking(shop, "SELECT swallows()").rows == [(0,)]


def test_a_million_rows_are_refused_and_never_fetched(shop: str) -> None:
    with pytest.raises(QueryRefusedError, match="more than 1,000 rows; write a LIMIT, or raise max_rows"):
        asking(shop, "SELECT generate_series(1, 1000000)")


def test_an_answer_that_is_too_large_is_refused(shop: str) -> None:
    with pytest.raises(QueryRefusedError, match="larger than 1,000,000 bytes"):
        asking(shop, "SELECT repeat('x', 10000) FROM generate_series(1, 500)")


@pytest.mark.parametrize(
    "sql", ["SELECT pg_sleep(1e6)", "SELECT set_config('statement_timeout', '0', false), pg_sleep(1e6)"]
)
def test_a_query_that_runs_for_ever_is_ended(shop: str, sql: str) -> None:
    with pytest.raises(QueryRefusedError, match=r"longer than 0\.2 s; make it cheaper, or raise timeout"):
        asking(shop, sql, Limits(timedelta(seconds=0.2), 1_000, 1_000))


def test_a_server_that_accepts_and_says_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked_database, "GRACE", timedelta(seconds=0.2))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://u:hidden@127.0.0.1:{silent.getsockname()[1]}/d"
        with pytest.raises(ServerUnreachableError, match="does not answer") as left:
            asking(url, "SELECT 1", Limits(timedelta(seconds=0.2), 1, 1_000))
    assert "hidden" not in str(left.value)


def test_a_server_that_stops_in_the_middle_is_left(shop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped process still acknowledges what it is sent: only a deadline of our own ends the wait."""
    sql = "SELECT pg_sleep(0.1), pg_backend_pid() AS pid FROM generate_series(1, 200)"
    stopped: list[int] = []
    fetched, waited = asked_database._size, asked_database._wait

    def stop_backend(row: tuple[object, ...]) -> int:
        if not stopped:
            stopped.append(int(str(row[1])))
            os.kill(stopped[0], signal.SIGSTOP)
        return fetched(row)

    def wait(connection: object, deadline: float) -> None:
        waited(connection, time.monotonic() + 0.5 if stopped else deadline)

    monkeypatch.setattr(asked_database, "_size", stop_backend)
    monkeypatch.setattr(asked_database, "_wait", wait)
    try:
        with pytest.raises(ServerUnreachableError, match="does not answer"):
            asking(shop, sql)
    finally:
        if stopped:
            os.kill(stopped[0], signal.SIGCONT)
    wait_until_gone(shop, APPLICATION)


def test_what_cannot_be_reached_is_told_without_its_password(shop: str) -> None:
    for url in ("postgresql://u:hidden@127.0.0.1:1/d", "postgresql://u:hidden@nowhere.invalid/d"):
        with pytest.raises(ServerUnreachableError, match=r"\[databases\]") as refused:
            asking(url, "SELECT 1")
        assert "hidden" not in str(refused.value)
    with pytest.raises(UsageError) as unread:
        asking("mysql://u:hidden@h/d", "SELECT 1")
    assert "hidden" not in str(unread.value)
    wrong = shop.replace("aggregator:", "aggregator:wronghidden", 1)
    with pytest.raises(ServerUnreachableError) as refused:
        asking(wrong, "SELECT 1")
    assert "wronghidden" not in str(refused.value)
