"""What the tasks of one process share: settings, the one connection, the stages. Made at first use, after any fork."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property

import structlog

from aggregator.collectors import make_collectors
from aggregator.collectors.protocol import Collector
from aggregator.config.digest import config_hash
from aggregator.config.load import load_settings
from aggregator.config.model import Settings
from aggregator.config.servers import require_database_url, with_running_servers
from aggregator.config.source_model import BaseSource, CommandSource, Source
from aggregator.errors import AggregatorError, ClockDiffersError, SchemaOutdatedError, UnknownSourceError
from aggregator.stages.collect import Collect
from aggregator.stages.collect.wake import Wake
from aggregator.stages.maintain import Maintain
from aggregator.stages.rollup import Rollup
from aggregator.stages.summarize import Publication, Summarize
from aggregator.stages.verify import Verify
from aggregator.storage import publish
from aggregator.storage.engine import MOST_CLOCK_DIFFERENCE, Connection, Database
from aggregator.storage.reading import ping
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
        return Collect(self.database, self.settings.node, self.collectors())

    def collectors(self) -> dict[str, Collector]:
        """A collector for each kind of source, which reads no more files than this node may."""
        return make_collectors(self.settings.data_dir, may_read=self._may_read)

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

    def require_right_clock(self) -> None:
        """Refuse to work by a clock that differs from PostgreSQL's, which all machines share.

        What is collected by it would stand at wrong times, and what is not old would be dropped. Raises
        ClockDiffersError.
        """
        if abs(self._clock_ahead()) <= MOST_CLOCK_DIFFERENCE:
            return
        self.database.run(ping)  # the machine may have slept since the last transaction
        if abs(ahead := self._clock_ahead()) > MOST_CLOCK_DIFFERENCE:
            _say_that_it_differs(ahead)
            direction = "ahead of" if ahead > timedelta(0) else "behind"
            raise ClockDiffersError(
                f"this machine's clock is {abs(ahead).total_seconds():.0f} s {direction} PostgreSQL's; set both by NTP:"
                " nothing is stored at times that may be wrong"
            )

    def _clock_ahead(self) -> timedelta:
        if self.database.server_clock is None:
            self.database.run(ping)
        if self.database.server_clock is None:
            raise AssertionError("every transaction reads the server's clock")
        return self.database.server_clock.ahead(self.clock())

    def steady_clock(self) -> Callable[[], datetime]:
        """The clock for one collection; it raises ClockDiffersError where it was set since: nothing is stored then."""
        begun, begun_seconds = self.clock(), time.monotonic()

        def read() -> datetime:
            shown = self.clock()
            passed = timedelta(seconds=time.monotonic() - begun_seconds)
            if abs(shown - begun - passed) > MOST_CLOCK_DIFFERENCE:
                raise ClockDiffersError("this machine's clock was set during a collection; nothing of it is stored")
            return shown

        return read

    def due_slot(self, slot: datetime) -> datetime:
        """The slot of a message, where the clocks allow to work on it.

        Raises ClockDiffersError, also for a slot that has yet to come: the clock of the beat that sent it is wrong.
        """
        self.require_right_clock()
        if slot > self.clock() + MOST_CLOCK_DIFFERENCE:
            raise ClockDiffersError(f"slot {slot.isoformat()} has yet to come; set the clock of beat's machine by NTP")
        return slot

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

    def _may_read(self, source: BaseSource) -> bool:
        return self.settings.read_files == "published" or source in self.settings.sources

    def _may_run(self, source: CommandSource) -> bool:
        if self.settings.run_commands == "local":
            return source in self.settings.sources
        return self.settings.run_commands == "published"


def _say_that_it_differs(ahead: timedelta) -> None:
    """Every task meets it: this is said once a minute."""
    if not _said_at_seconds or time.monotonic() - _said_at_seconds[-1] > _SAY_AGAIN_SECONDS:
        _said_at_seconds[:] = [time.monotonic()]
        log.error("clock_differs", ahead_of_database_seconds=round(ahead.total_seconds()))


_SAY_AGAIN_SECONDS = 60.0
_said_at_seconds: list[float] = []
_contexts: list[Context] = []


def context() -> Context:
    """This process' context."""
    if not _contexts:
        _contexts.append(Context(with_running_servers(load_settings())))
    return _contexts[0]


def forget_context() -> None:
    """Begin anew: after a fork nothing of the parent's may be used."""
    _contexts.clear()
