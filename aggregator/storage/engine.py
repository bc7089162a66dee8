"""Connections to PostgreSQL: URLs, timeouts, and transactions that are retried as a whole."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

import structlog
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError
from sqlalchemy.exc import SQLAlchemyError as StorageError
from sqlalchemy.pool import QueuePool

from aggregator.errors import ServerUnreachableError, UsageError
from aggregator.storage.silence import watched

log = structlog.get_logger(__name__)

Result = TypeVar("Result")

#: Serialization failure, deadlock, lock timeout, shutdowns; class 08 is the connection itself.
RETRYABLE_SQLSTATES = frozenset({"40001", "40P01", "55P03", "57P01", "57P02", "57P03"})
_LOCK_NOT_AVAILABLE = "55P03"
_QUERY_CANCELED = "57014"
ATTEMPTS = 3
FIRST_PAUSE_SECONDS = 0.1

STATEMENT_TIMEOUT = timedelta(seconds=60)
LOCK_TIMEOUT = timedelta(seconds=5)
IDLE_TIMEOUT = timedelta(seconds=60)
#: How much a machine's clock may differ from the server's, by which all go.
MOST_CLOCK_DIFFERENCE = timedelta(seconds=60)

_CONNECT_ARGUMENTS = {
    # Keepalives find a peer that went silent while we wait; tcp_user_timeout one that acknowledges nothing.
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}


def driver_url(url: str) -> URL:
    """The URL with our driver in it: `postgres://` and `postgresql://` are what people write.

    Raises UsageError for anything that is no PostgreSQL URL.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise UsageError(
            "the database URL cannot be read; write postgresql://user:password@host:5432/database"
        ) from None
    if parsed.drivername.partition("+")[0] not in ("postgres", "postgresql"):
        raise UsageError(f"the database URL begins with {parsed.drivername}://; it must be a postgresql:// URL")
    return parsed.set(drivername="postgresql+psycopg2")


def make_engine(
    url: str,
    *,
    application: str,
    statement_timeout: timedelta = STATEMENT_TIMEOUT,
    pool_size: int = 1,
    connect_timeout_seconds: int = 5,
) -> Engine:
    """An engine whose connections time out on a dead peer; `statement_timeout` is set by each `transaction`."""
    return create_engine(
        driver_url(url),
        poolclass=QueuePool,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=10,
        # Said at each BEGIN: the ledger reads after it has locked, which another default of the database would break.
        isolation_level="READ COMMITTED",
        connect_args={
            **_CONNECT_ARGUMENTS,
            "connect_timeout": connect_timeout_seconds,
            "application_name": application,
        },
        execution_options={"statement_timeout": statement_timeout},
    )


@contextmanager
def transaction(engine: Engine, *, statement_timeout: timedelta | None = None) -> Iterator[Connection]:
    """One transaction with its timeouts and UTC set by SET LOCAL, which works behind PgBouncer too.

    Raises ServerUnreachableError where no connection can be made.
    """
    limit = statement_timeout or engine.get_execution_options().get("statement_timeout", STATEMENT_TIMEOUT)
    try:
        connection = engine.connect()
    except OperationalError as error:
        raise unreachable(engine.url, error) from error
    with connection, watched(connection, limit=limit) as watch, connection.begin():
        row = connection.execute(
            _SET_LOCAL,
            {
                "statement": _milliseconds(limit),
                "lock": _milliseconds(LOCK_TIMEOUT),
                "idle": _milliseconds(IDLE_TIMEOUT),
            },
        ).one()
        if watch is not None:
            watch.backend = row.backend
        connection.info[_SERVER_CLOCK] = ServerClock(row.server_clock, time.monotonic())
        yield connection


_SET_LOCAL = text(
    "SELECT pg_backend_pid() AS backend, clock_timestamp() AS server_clock,"
    " set_config('statement_timeout', :statement, true), set_config('lock_timeout', :lock, true),"
    " set_config('idle_in_transaction_session_timeout', :idle, true), set_config('timezone', 'UTC', true)"
)
_SERVER_CLOCK = "aggregator.server_clock"


def clock_ahead(connection: Connection, now: datetime) -> timedelta:
    """How much a clock that shows `now` at this moment is ahead of the server's, in a `transaction`."""
    found: ServerClock = connection.info[_SERVER_CLOCK]
    return found.ahead(now)


@dataclass(frozen=True)
class ServerClock:
    """What the server's clock showed (UTC), and when that was by our own monotonic one, in seconds."""

    instant: datetime
    at_seconds: float

    def ahead(self, now: datetime) -> timedelta:
        """How much a clock that shows `now` at this moment is ahead of the server's."""
        return now - self.instant - timedelta(seconds=time.monotonic() - self.at_seconds)


def _milliseconds(duration: timedelta) -> str:
    return str(round(duration.total_seconds() * 1_000))


def unreachable(url: URL, error: Exception) -> ServerUnreachableError:
    """The error that names the setting; the password is not in it."""
    reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
    return ServerUnreachableError(
        f"PostgreSQL cannot be reached at {url.host or 'its socket'}: {reason};"
        " see AGGREGATOR_DATABASE_URL, or start everything with `aggregator up`"
    )


def is_retryable(error: BaseException) -> bool:
    """Whether the whole transaction may be tried again: the server's state, not the statement, was the reason."""
    if isinstance(error, ServerUnreachableError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    sqlstate = getattr(error.orig, "pgcode", None) or ""
    return error.connection_invalidated or sqlstate in RETRYABLE_SQLSTATES or sqlstate.startswith("08")


def is_statement_timeout(error: BaseException) -> bool:
    """Whether a statement took longer than its transaction allows."""
    return isinstance(error, DBAPIError) and getattr(error.orig, "pgcode", None) == _QUERY_CANCELED


def is_lock_timeout(error: BaseException) -> bool:
    """Whether a lock could not be had in time."""
    return isinstance(error, DBAPIError) and getattr(error.orig, "pgcode", None) == _LOCK_NOT_AVAILABLE


@dataclass
class Database:
    """The one connection of a process, and the functions to be called when it had to be made anew.

    Whoever caches what is committed registers in `on_reconnect`: behind a new connection may be another database.
    """

    engine: Engine
    on_reconnect: list[Callable[[], None]] = field(default_factory=list)
    #: As the last transaction found it; None before the first.
    server_clock: ServerClock | None = None

    @classmethod
    def connect(cls, url: str, *, application: str) -> Database:
        """A database that connects at its first transaction."""
        return cls(make_engine(url, application=application))

    def run(self, work: Callable[[Connection], Result], *, statement_timeout: timedelta | None = None) -> Result:
        """Run `work` in a transaction, and the whole of it again where the server's state was the reason.

        `work` must be safe to repeat: a connection lost in COMMIT leaves the outcome unknown.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with transaction(self.engine, statement_timeout=statement_timeout) as connection:
                    self.server_clock = connection.info[_SERVER_CLOCK]
                    return work(connection)
            except (DBAPIError, ServerUnreachableError) as error:
                self._forget_if_disconnected(error)
                if attempt == ATTEMPTS or not is_retryable(error):
                    raise
                log.info("transaction_retried", attempt=attempt, error=str(getattr(error, "orig", error)).strip())
                time.sleep(FIRST_PAUSE_SECONDS * 2**attempt * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _forget_if_disconnected(self, error: Exception) -> None:
        if isinstance(error, ServerUnreachableError) or (
            isinstance(error, DBAPIError) and error.connection_invalidated
        ):
            self.forget()

    def forget(self) -> None:
        """Drop all that this process remembers of the database: it may be another one, or an older one."""
        for forget in self.on_reconnect:
            forget()

    def dispose(self) -> None:
        """Close the connection."""
        self.engine.dispose()


__all__ = [
    "Connection",
    "Database",
    "ServerClock",
    "StorageError",
    "clock_ahead",
    "driver_url",
    "is_lock_timeout",
    "is_retryable",
    "is_statement_timeout",
    "make_engine",
    "transaction",
    "unreachable",
]
