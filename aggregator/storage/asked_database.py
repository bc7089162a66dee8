"""Asking a database one statement that only reads, with an end to it whatever the other side does.

psycopg2 sends `SELECT 1; COMMIT; DROP TABLE t` as it is, and the COMMIT ends a transaction however read only it was. So
the statement is never sent as one: a cursor is opened for it on the server, which takes a single statement that gives
rows, and its rows are fetched from there, in a transaction that is read only and always rolled back.
"""

from __future__ import annotations

import select
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg2
from psycopg2 import extensions

from aggregator.errors import QueryRefusedError, ServerUnreachableError
from aggregator.storage.engine import driver_url

#: What is left for connecting, and for the server's own timeout to end the statement before we leave it.
GRACE = timedelta(seconds=5)
LOCK_TIMEOUT = timedelta(seconds=5)
#: A batch doubles up to so many rows, so that a wide answer is noticed before all of it has come.
MOST_FETCHED = 1_000

_BEGIN = "BEGIN TRANSACTION READ ONLY"
# SET LOCAL, as behind PgBouncer nothing else is sure to be ours. A cursor is planned for its first rows unless told.
_SETTINGS = """
SELECT set_config('statement_timeout', %(timeout_ms)s, true), set_config('lock_timeout', %(lock_ms)s, true),
    set_config('idle_in_transaction_session_timeout', %(timeout_ms)s, true), set_config('timezone', 'UTC', true),
    set_config('DateStyle', 'ISO', true), set_config('IntervalStyle', 'postgres', true),
    set_config('cursor_tuple_fraction', '1', true), set_config('aggregator.asked', %(sql)s, true)
"""
# The statement travels as a value, so nothing of it needs quoting.
_OPEN = """
DO $$
DECLARE asked refcursor := 'aggregator_asked';
BEGIN
    OPEN asked FOR EXECUTE current_setting('aggregator.asked');
END
$$
"""
_FETCH = "FETCH FORWARD %(rows)s FROM aggregator_asked"

_TIMED_OUT = ("57014", "55P03", "25P03")
_READ_ONLY = "25006"
#: What PostgreSQL says of a statement for which no cursor can be opened: several, or one that gives no rows.
_NO_CURSOR = ("42P11", "42601")


@dataclass(frozen=True)
class Limits:
    """Where asking ends: how long it may take, how many rows there may be, how large they may be in memory."""

    timeout: timedelta
    rows: int
    size_bytes: int


@dataclass(frozen=True)
class Answer:
    """The columns of an answer, in their order, and its rows, of what psycopg2 makes of PostgreSQL's types."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


def ask(url: str, sql: str, *, limits: Limits, application: str) -> Answer:
    """The rows of one statement that only reads, from the database at a URL, over a connection of its own.

    Raises QueryRefusedError where the statement writes, fails, takes too long or gives too much, and
    ServerUnreachableError where the server does not answer. Neither says the URL.
    """
    deadline = time.monotonic() + (limits.timeout + GRACE).total_seconds()
    try:
        with closing(_connect(url, deadline=deadline, application=application)) as connection:
            return _answer(connection, sql, limits=limits, deadline=deadline)
    except TimeoutError:
        raise ServerUnreachableError("the database does not answer; see [databases] of this node") from None
    except psycopg2.Error as error:
        raise _in_our_words(error, limits) from None
    except (ValueError, OverflowError) as error:
        raise QueryRefusedError(f"a value of the answer cannot be read: {error}; cast it to text") from None


def _connect(url: str, *, deadline: float, application: str) -> Any:  # noqa: ANN401 - psycopg2's types do not know async_
    parsed = driver_url(url)
    _, options = parsed.get_dialect()().create_connect_args(parsed)
    own = {"application_name": application, "client_encoding": "UTF8", "async_": 1}
    connection: Any = psycopg2.connect(**{**options, **own})
    try:
        _wait(connection, deadline)
    except BaseException:
        connection.close()
        raise
    return connection


def _wait(connection: Any, deadline: float) -> None:  # noqa: ANN401 - as above
    """Wait for what was begun on a connection; raises TimeoutError at the deadline.

    A server that was stopped, or whose machine vanished, lets libpq wait without limit, and no signal ends that: here
    it is Python that waits.
    """
    while (state := connection.poll()) != extensions.POLL_OK:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        reads = [connection] if state == extensions.POLL_READ else []
        writes = [connection] if state == extensions.POLL_WRITE else []
        select.select(reads, writes, [], left)


def _answer(connection: Any, sql: str, *, limits: Limits, deadline: float) -> Answer:  # noqa: ANN401 - as above
    with closing(connection.cursor()) as cursor:

        def run(statement: str, **values: object) -> None:
            cursor.execute(statement, values or None)
            _wait(connection, deadline)

        run(_BEGIN)
        settings = {"timeout_ms": _milliseconds(limits.timeout), "lock_ms": _milliseconds(LOCK_TIMEOUT)}
        run(_SETTINGS, **settings, sql=sql)
        run(_OPEN)
        rows: list[tuple[Any, ...]] = []
        columns: tuple[str, ...] = ()
        size_bytes = 0
        for wanted in _batches(limits.rows + 1):
            run(_FETCH, rows=wanted)
            columns = tuple(described.name for described in cursor.description)
            batch = cursor.fetchall()
            rows += batch
            size_bytes += sum(_size(row) for row in batch)
            _require_within(limits, rows=len(rows), size_bytes=size_bytes)
            if len(batch) < wanted:
                break
        return Answer(_distinct(columns), rows)


def _batches(rows: int) -> Iterator[int]:
    size, left = 1, rows
    while left > 0:
        yield min(size, left)
        left -= size
        size = min(size * 4, MOST_FETCHED)


def _size(row: Sequence[Any]) -> int:
    return sum(len(value) if isinstance(value, str | bytes | memoryview) else 8 for value in row)


def _require_within(limits: Limits, *, rows: int, size_bytes: int) -> None:
    if rows > limits.rows:
        raise QueryRefusedError(f"the query gives more than {limits.rows:,} rows; write a LIMIT, or raise max_rows")
    if size_bytes > limits.size_bytes:
        raise QueryRefusedError(
            f"the answer is larger than {limits.size_bytes:,} bytes; select less, or raise max_bytes"
        )


def _distinct(columns: tuple[str, ...]) -> tuple[str, ...]:
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise QueryRefusedError(f"two columns are named {twice}; give each its own name with AS")
    return columns


def _milliseconds(duration: timedelta) -> str:
    return str(round(duration.total_seconds() * 1_000))


def too_slow(timeout: timedelta) -> QueryRefusedError:
    """The error for a query that did not end in time."""
    return QueryRefusedError(
        f"the query took longer than {timeout.total_seconds():g} s; make it cheaper, or raise timeout"
    )


def _in_our_words(error: psycopg2.Error, limits: Limits) -> QueryRefusedError | ServerUnreachableError:
    code = error.pgcode or ""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].removeprefix("ERROR:").strip()
    if code in _TIMED_OUT:
        return too_slow(limits.timeout)
    if code == _READ_ONLY:
        return QueryRefusedError(f"the query writes: {reason}; a summary only reads")
    if code in _NO_CURSOR:
        return QueryRefusedError(f"{reason}; write one statement that gives rows")
    if not code or code.startswith(("08", "57P", "28", "3D")):
        return ServerUnreachableError(f"the database cannot be asked: {reason}; see [databases] of this node")
    return QueryRefusedError(f"the query failed: {reason}")
