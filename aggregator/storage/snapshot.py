"""One instant of the whole database: transactions that read only, and see nothing of what is committed meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from sqlalchemy import Connection, Engine

from aggregator.storage.engine import transaction


@contextmanager
def snapshot(engine: Engine, *, statement_timeout: timedelta | None = None) -> Iterator[Connection]:
    """One read-only REPEATABLE READ transaction; the driver says so in BEGIN itself, which works behind PgBouncer too.

    Raises ServerUnreachableError where no connection can be made.
    """
    isolated = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    with transaction(isolated, statement_timeout=statement_timeout) as connection:
        yield connection
