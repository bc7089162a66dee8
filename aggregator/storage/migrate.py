"""The schema's version: bring a database to head, and say whether it is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from aggregator.bundled import bundled
from aggregator.storage.engine import driver_url, make_engine, transaction
from aggregator.storage.schema import is_of_later_version
from aggregator.storage.tables import SCHEMA

if TYPE_CHECKING:
    from sqlalchemy import Connection


def _config(url: str | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(bundled("migrations")))
    if url:
        config.attributes["url"] = driver_url(url)
    return config


def upgrade(url: str) -> None:
    """Bring the schema to head; several callers at once wait for one another. That of a later version stays as it is.

    Raises ServerUnreachableError where there is no server.
    """
    engine = make_engine(url, application="aggregator migrate")
    try:
        # Says "cannot be reached" in our words, too, before alembic does in its own.
        with transaction(engine) as connection:
            is_done = is_of_later_version(connection)
    finally:
        engine.dispose()
    if not is_done:
        command.upgrade(_config(url), "head")


def head_revision() -> str:
    """The revision that this version of the code needs."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    if revision is None:
        raise AssertionError("no migration is packaged")
    return revision


def current_revision(connection: Connection) -> str | None:
    """The revision that the database has; None where the schema was never made."""
    context = MigrationContext.configure(connection, opts={"version_table_schema": SCHEMA})
    return context.get_current_revision()
