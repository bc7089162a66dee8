"""Read-only transactions for those who answer people: short timeouts, and errors of our own tree."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from aggregator.errors import AggregatorError, SchemaOutdatedError, ServerUnreachableError
from aggregator.storage.engine import is_retryable, make_engine, transaction, unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Result = TypeVar("Result")

STATEMENT_TIMEOUT = timedelta(seconds=5)
#: libpq rounds anything shorter up to this.
CONNECT_TIMEOUT_SECONDS = 2

_READ_ONLY = text("SET TRANSACTION READ ONLY")
_QUERY_CANCELED = "57014"
_SCHEMA_CODES = frozenset({"42P01", "42703", "3F000"})  # undefined table, undefined column, invalid schema name


@dataclass(frozen=True)
class Reader:
    """A database that is only read; connects at its first transaction and anew after the server was away."""

    engine: Engine

    @classmethod
    def connect(
        cls, url: str, *, application: str, pool_size: int = 1, statement_timeout: timedelta = STATEMENT_TIMEOUT
    ) -> Reader:
        """A reader of the database at a URL; raises UsageError where the URL cannot be read."""
        engine = make_engine(
            url,
            application=application,
            statement_timeout=statement_timeout,
            pool_size=pool_size,
            connect_timeout_seconds=CONNECT_TIMEOUT_SECONDS,
        )
        return cls(engine)

    def of_one_instant(self) -> Reader:
        """The same database; each transaction sees nothing that is committed after its first statement."""
        return Reader(self.engine.execution_options(isolation_level="REPEATABLE READ"))

    def run(self, work: Callable[[Connection], Result]) -> Result:
        """Run `work` in a read-only transaction, once more where the kept connection had died meanwhile.

        Raises ServerUnreachableError, SchemaOutdatedError where a table is missing, and AggregatorError where the
        database took too long.
        """
        try:
            with self._connection() as connection:
                return work(connection)
        except DBAPIError as error:
            if not is_retryable(error):
                raise self._in_our_words(error) from error
        try:
            with self._connection() as connection:
                return work(connection)
        except DBAPIError as error:
            raise self._in_our_words(error) from error

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        try:
            with transaction(self.engine) as connection:
                connection.execute(_READ_ONLY)
                yield connection
        except PoolTimeoutError as error:
            raise ServerUnreachableError("all connections to PostgreSQL are busy; try again") from error

    def _in_our_words(self, error: DBAPIError) -> AggregatorError:
        code = getattr(error.orig, "pgcode", None) or ""
        if code == _QUERY_CANCELED:
            return AggregatorError("the database took too long to answer; ask for less, or try again")
        if code in _SCHEMA_CODES:
            return SchemaOutdatedError()
        if is_retryable(error):
            return unreachable(self.engine.url, error)
        return AggregatorError(f"the database refused the query: {str(error.orig).strip().splitlines()[0]}")

    def dispose(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def ping(connection: Connection) -> bool:
    """True, from the server: it answers."""
    return bool(connection.execute(text("SELECT true")).scalar_one())
