"""A node says that it lives, and at its start publishes what its file says (docs/adr/0007)."""

from __future__ import annotations

from datetime import datetime, timedelta

import structlog
from sqlalchemy import Connection, select

from aggregator import __version__
from aggregator.config.model import Settings
from aggregator.errors import UsageError
from aggregator.storage import publish, registry, runs, schema, tables
from aggregator.storage.engine import Database

log = structlog.get_logger(__name__)


def announce(database: Database, settings: Settings, *, config_hash: str, started_at: datetime, now: datetime) -> None:
    """Record that this node lives; the first time since its start, publish its configuration where that is its part."""

    def work(connection: Connection) -> None:
        nodes = tables.nodes
        known_start = connection.execute(select(nodes.c.started_at).where(nodes.c.name == settings.node)).scalar()
        if known_start != started_at and should_publish(connection, settings, config_hash=config_hash):
            _publish(connection, settings, config_hash=config_hash, now=now)
        registry.see_node(
            connection,
            settings.node,
            now=now,
            started_at=started_at,
            config_hash=config_hash,
            version=__version__,
            exporter_url=f"http://{settings.exporter_listen}/metrics",
        )

    database.run(work)


def _publish(connection: Connection, settings: Settings, *, config_hash: str, now: datetime) -> None:
    """Publish, or say why not: a node whose configuration is refused lives by the one that is published."""
    try:
        with connection.begin_nested():
            publish.publish(connection, settings, config_hash=config_hash, now=now)
    except UsageError as error:
        log.error("configuration_refused", file=str(settings.file or "defaults"), reason=str(error))  # noqa: TRY400 - it says all
    else:
        log.info("configuration_published", hash=config_hash, file=str(settings.file or "defaults"))


def should_publish(connection: Connection, settings: Settings, *, config_hash: str) -> bool:
    """Whether this process' settings are to become the installation's.

    Those of a file always do. Defaults only where nothing is published or where they were published by this node: a
    worker that only knows the URLs goes by what it finds. The answer holds until the transaction ends: nobody else
    publishes meanwhile. Never in a database that a later version has migrated: it goes by what that one publishes.
    """
    publish.lock(connection)
    if schema.is_of_later_version(connection):
        return False
    return is_to_publish(connection, settings, config_hash=config_hash)


def is_to_publish(connection: Connection, settings: Settings, *, config_hash: str) -> bool:
    """As `should_publish`; somebody else may publish meanwhile."""
    table = tables.installation
    row = connection.execute(select(table.c.config_hash, table.c.published_by)).one_or_none()
    if row is None:
        return True
    if row.config_hash == config_hash:
        return False
    return settings.file is not None or row.published_by == settings.node


def record_wake(database: Database, job: str, *, slot: datetime, interval: timedelta, now: datetime) -> None:
    """Record that the wake of a job was read."""
    database.run(lambda connection: runs.woken(connection, job, slot=slot, interval=interval, now=now))
