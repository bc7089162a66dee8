"""What the tasks of one process share: settings, the one connection, the stages. Made at first use, after any fork."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

import structlog

from aggregator.collectors import make_collectors
from aggregator.config.digest import config_hash
from aggregator.config.load import load_settings
from aggregator.config.model import Settings
from aggregator.config.servers import require_database_url, with_running_servers
from aggregator.config.source_model import CommandSource, Source
from aggregator.errors import AggregatorError, SchemaOutdatedError, UnknownSourceError
from aggregator.stages.collect import Collect
from aggregator.stages.collect.wake import Wake
from aggregator.stages.maintain import Maintain
from aggregator.stages.rollup import Rollup
from aggregator.stages.summarize import Publication, Summarize
from aggregator.stages.verify import Verify
from aggregator.storage import publish
from aggregator.storage.engine import Connection, Database
from aggregator.storage.schema import schema_fault

log = structlog.get_logger(__name__)


def now() -> datetime:
    """The present (UTC): only tasks and commands ask for it, everything below is told."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Context:
    """Everything that a task needs."""

    settings: Settings
    clock: Callable[[], datetime] = now

    @cached_property
    def config_hash(self) -> str:
        """The hash of this process' own configuration."""
        return config_hash(self.settings)

    @cached_property
    def database(self) -> Database:
        """The one connection of this process.

        Raises SchemaOutdatedError while the schema is of an earlier version, again and again: nothing is claimed.
        """
        database = Database.connect(require_database_url(self.settings), application=f"aggregator {self.settings.node}")
        try:
            if fault := database.run(schema_fault):
                # What a task raises for whoever waits for it is in no log, and nobody waits for these.
                log.error("schema_outdated", reason=fault)
                raise SchemaOutdatedError(fault)
        except AggregatorError:
            database.dispose()
            raise
        return database

    @cached_property
    def wake(self) -> Wake:
        """Finds what is to be collected."""
        return Wake(self.database)

    @cached_property
    def collect(self) -> Collect:
        """The stage collect."""
        return Collect(self.database, self.settings.node, make_collectors(self.settings.data_dir))

    @cached_property
    def rollup(self) -> Rollup:
        """The stage rollup."""
        return Rollup(self.database, self.settings.node)

    @cached_property
    def summarize(self) -> Summarize:
        """The stage summarize."""
        url, namespace = self.settings.cache_url, self.settings.namespace
        return Summarize(
            self.database,
            Publication.at(url.get_secret_value(), namespace=namespace) if url is not None else None,
            self.settings.node,
            own_url=require_database_url(self.settings),
            databases={known.name: known.url.get_secret_value() for known in self.settings.databases},
        )

    @cached_property
    def maintain(self) -> Maintain:
        """The stage maintain."""
        return Maintain(self.database, self.settings.node)

    @cached_property
    def verify(self) -> Verify:
        """The stage verify."""
        return Verify(self.database, self.settings.node)

    def source(self, name: str) -> tuple[int, Source]:
        """A published source with its id, if this node may serve it.

        Raises UnknownSourceError, with what would be right.
        """

        def read(connection: Connection) -> tuple[int, Source]:
            found = publish.find_source(connection, name)
            if found is None:
                known = ", ".join(publish.source_names(connection)) or "none"
                raise UnknownSourceError(
                    f'no source is named "{name}"; there are: {known}. Add [[sources]] with name = "{name}" to'
                    " aggregator.toml and restart, or name one of these"
                )
            return found

        source_id, source = self.database.run(read)
        if isinstance(source, CommandSource) and not self._may_run(source):
            raise UnknownSourceError(
                f'this node does not run the command of source "{name}" (run_commands = "{self.settings.run_commands}")'
            )
        return source_id, source

    def _may_run(self, source: CommandSource) -> bool:
        if self.settings.run_commands == "local":
            return source in self.settings.sources
        return self.settings.run_commands == "published"


_contexts: list[Context] = []


def context() -> Context:
    """This process' context."""
    if not _contexts:
        _contexts.append(Context(with_running_servers(load_settings())))
    return _contexts[0]


def forget_context() -> None:
    """Begin anew: after a fork nothing of the parent's may be used."""
    _contexts.clear()
