"""From an empty database to one that workers can use: schema, views, partitions, the published configuration."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection

from aggregator.config.digest import config_hash
from aggregator.config.model import Settings
from aggregator.storage.announce import should_publish
from aggregator.storage.engine import Database
from aggregator.storage.migrate import upgrade
from aggregator.storage.publish import create_views, ensure_tiers, publish
from aggregator.storage.schema import is_of_later_version


def bring_up(url: str, settings: Settings, *, now: datetime) -> bool:
    """Bring the schema to head, and publish these settings where that is their part; gives whether they were.

    Raises ServerUnreachableError where there is no server.
    """
    upgrade(url)
    digest = config_hash(settings)

    def work(connection: Connection) -> bool:
        if should_publish(connection, settings, config_hash=digest):
            publish(connection, settings, config_hash=digest, now=now)
            return True
        if is_of_later_version(connection):
            return False
        ensure_tiers(connection)  # these and the views may be newer than the database's
        create_views(connection)
        return False

    database = Database.connect(url, application="aggregator migrate")
    try:
        return database.run(work)
    finally:
        database.dispose()
