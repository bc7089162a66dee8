"""A server that goes silent without closing anything: whoever waits for it is cut off, and does its work again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy import text

from aggregator.storage import silence
from aggregator.storage.engine import Connection, Database
from tests.silent_proxy import SilentProxy, silent_proxy

#: As in the product, but all of it quicker.
OWED = timedelta(seconds=2)
ASK_EVERY_SECONDS = 0.5
#: Two looks of a second, two questions, and a pause, on a machine that does other work as well; but less than the
#: minute after which the server itself ends a session that is lost.
_SOON_SECONDS = OWED.total_seconds() + 40


@pytest.fixture(autouse=True)
def _quicker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silence, "OWED", OWED)
    monkeypatch.setattr(silence, "ASK_EVERY_SECONDS", ASK_EVERY_SECONDS)


@pytest.fixture
def proxy(database_url: str) -> Iterator[SilentProxy]:
    there = urlsplit(database_url)
    with silent_proxy(str(there.hostname), int(there.port or 0)) as made:
        yield made


@pytest.fixture
def database(database_url: str, proxy: SilentProxy) -> Iterator[Database]:
    made = Database.connect(proxy.before(database_url), application="test")
    yield made
    made.dispose()


def select(connection: Connection, value: int) -> int:
    return int(connection.execute(text("SELECT :value"), {"value": value}).scalar_one())


def test_a_transaction_on_a_connection_that_was_forgotten_is_done_on_a_new_one(
    database: Database, proxy: SilentProxy
) -> None:
    assert database.run(lambda connection: select(connection, 1)) == 1
    proxy.forget()
    started = time.monotonic()
    assert database.run(lambda connection: select(connection, 2)) == 2
    assert OWED.total_seconds() <= time.monotonic() - started < _SOON_SECONDS


def test_a_transaction_in_the_middle_of_which_the_server_goes_silent_is_done_again(
    database: Database, proxy: SilentProxy
) -> None:
    tries = []

    def work(connection: Connection) -> int:
        tries.append(select(connection, 1))
        if len(tries) == 1:
            proxy.forget()
        return select(connection, 2)

    started = time.monotonic()
    assert database.run(work) == 2
    assert len(tries) == 2
    assert time.monotonic() - started < _SOON_SECONDS


def test_what_such_a_transaction_had_locked_is_free_again(database: Database, proxy: SilentProxy) -> None:
    tries = []

    def work(connection: Connection) -> int:
        # Waits for no lock longer than five seconds; the server would end the lost session after a minute.
        connection.execute(text("LOCK TABLE aggregator.shards IN ACCESS EXCLUSIVE MODE"))
        tries.append(1)
        if len(tries) == 1:
            proxy.forget()
        return select(connection, 2)

    assert database.run(work) == 2
    assert len(tries) == 2


@dataclass
class Rows:
    """Rows of a COPY, in the middle of which something happens."""

    happens: Callable[[], None]
    left: int = 2

    def read(self, _size: int) -> bytes:
        """As psycopg2 asks a file; the server has begun to read by then."""
        self.left -= 1
        if self.left == 0:
            self.happens()
        return b"1\n" if self.left >= 0 else b""


def test_so_is_what_a_copy_had_locked_that_waits_for_its_rows(database: Database, proxy: SilentProxy) -> None:
    tries = []

    def work(connection: Connection) -> int:
        connection.execute(text("LOCK TABLE aggregator.shards IN ACCESS EXCLUSIVE MODE"))
        connection.execute(text("CREATE TEMPORARY TABLE copied (value int) ON COMMIT DROP"))
        tries.append(1)
        driver: Any = connection.connection.dbapi_connection
        with driver.cursor() as cursor:
            cursor.copy_expert("COPY copied FROM STDIN", Rows(proxy.forget if len(tries) == 1 else lambda: None))
        return select(connection, 2)

    started = time.monotonic()
    assert database.run(work) == 2
    assert len(tries) == 2
    assert time.monotonic() - started < _SOON_SECONDS


def test_a_statement_that_works_for_longer_than_an_answer_may_be_owed_is_left_alone(database: Database) -> None:
    tries = []

    def work(connection: Connection) -> None:
        tries.append(1)
        connection.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": OWED.total_seconds() + 5})

    database.run(work)
    assert tries == [1]


def test_work_of_our_own_between_two_statements_may_take_long(database: Database) -> None:
    def work(connection: Connection) -> int:
        select(connection, 1)
        time.sleep(OWED.total_seconds() + 3)
        return select(connection, 2)

    assert database.run(work) == 2
