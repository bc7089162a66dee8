"""Finding out the installation's status: database, broker and cache are asked side by side, each with its limit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from aggregator.errors import AggregatorError, ServerUnreachableError
from aggregator.serving.asking import Question
from aggregator.serving.servers import Answer, Prober, queue_names
from aggregator.serving.status import Server, Status
from aggregator.storage.engine import clock_ahead
from aggregator.storage.health import Health, HealthReader
from aggregator.storage.reading import Reader, ping
from aggregator.storage.schema import schema_fault
from aggregator.storage.stored_summaries import is_published, read_stored_summaries

if TYPE_CHECKING:
    from collections.abc import Callable

    from aggregator.storage.engine import Connection

Result = TypeVar("Result")

#: Who asks every two seconds gets fresh answers; a crowd of askers costs no more than one.
KEPT_SECONDS = 1.0
#: Together a second: so long after PostgreSQL is gone, or hangs, everybody who asks is told.
DATABASE_KEPT_SECONDS = 0.1
DATABASE_DOWN_AFTER_SECONDS = 0.9
SERVER_KEPT_SECONDS = 4.0
#: After so long a server that does not answer is called down.
DOWN_AFTER_SECONDS = 1.0
#: The first reading of a large installation takes a while.
HEALTH_WITHIN_SECONDS = 6.0

_HANGS = "it does not answer"


@dataclass(frozen=True)
class Addresses:
    """Where the servers are; None: not configured here. `namespace` begins the names of queues and keys."""

    database_url: str
    broker_url: str | None = None
    cache_url: str | None = None
    namespace: str = "aggregator"


class Observer:
    """Finds out the status whenever asked; holds at most two connections to the database and one to each other."""

    def __init__(self, addresses: Addresses, *, application: str) -> None:
        self.addresses = addresses
        self._reader = Reader.connect(addresses.database_url, application=application, pool_size=2)
        self._health_reader = HealthReader()
        self._nodes: tuple[str, ...] = ()
        self._broker = Prober(addresses.broker_url, setting="AGGREGATOR_BROKER_URL")
        self._cache = Prober(addresses.cache_url, setting="AGGREGATOR_CACHE_URL")
        self._database_question = Question(lambda: self._reader.run(ping), kept_seconds=DATABASE_KEPT_SECONDS)
        self._health_question = Question(self._read_health, kept_seconds=KEPT_SECONDS)
        self._broker_question = Question(self._ask_broker, kept_seconds=SERVER_KEPT_SECONDS)
        self._cache_question = Question(self._cache.ask, kept_seconds=SERVER_KEPT_SECONDS)

    def status(self) -> Status:
        """The status now."""
        return self.observe()[0]

    def observe(self) -> tuple[Status, dict[str, int]]:
        """The status now, and how many messages wait in each queue of the broker."""
        database, health = self._database()
        broker = _in_time(self._broker_question, "the broker", "AGGREGATOR_BROKER_URL")
        cache = _in_time(self._cache_question, "the cache", "AGGREGATOR_CACHE_URL")
        servers = {"database": database, "broker": broker.server, "cache": cache.server}
        return Status(datetime.now(UTC), servers, health), broker.queue_messages

    def stored_summaries(self, name: str | None = None) -> list[dict[str, Any]]:
        """Summaries from PostgreSQL; raises ServerUnreachableError where it does not answer."""
        self._require_database()
        names = None if name is None else [name]
        return self._reader.run(lambda connection: read_stored_summaries(connection, names))

    def is_summary(self, name: str) -> bool:
        """Whether a summary of this name is published; raises ServerUnreachableError where PostgreSQL is away."""
        self._require_database()
        return self._reader.run(lambda connection: is_published(connection, name))

    def read(self, work: Callable[[Connection], Result]) -> Result:
        """What is read in a transaction; raises ServerUnreachableError where PostgreSQL is away."""
        self._require_database()
        return self._reader.run(work)

    def schema_fault(self) -> str | None:
        """Why the database cannot be used by this version of the code; None where it can."""
        self._require_database()
        return self._reader.run(schema_fault)

    def close(self) -> None:
        """Close the connections to the database."""
        self._reader.dispose()

    def _database(self) -> tuple[Server, Health | None]:
        try:
            self._require_database()
            health, fault = self._health()
            if health is None:
                self._require_database()  # it may have gone meanwhile
        except AggregatorError as error:
            return Server(is_up=False, error=str(error)), None
        return Server(is_up=True, error=fault), health

    def _health(self) -> tuple[Health | None, str | None]:
        """The health, or why there is none."""
        try:
            health = self._health_question.answer(within_seconds=HEALTH_WITHIN_SECONDS)
        except AggregatorError as error:
            return None, str(error)
        return health, None if health else "the database took too long to tell its health"

    def _require_database(self) -> None:
        if self._database_question.answer(within_seconds=DATABASE_DOWN_AFTER_SECONDS) is None:
            raise ServerUnreachableError(f"PostgreSQL cannot be reached: {_HANGS}; see AGGREGATOR_DATABASE_URL")

    def _read_health(self) -> Health:
        def work(connection: Connection) -> Health:
            ahead = clock_ahead(connection, datetime.now(UTC))
            health = self._health_reader.read(connection, now=datetime.now(UTC))
            return replace(health, clock_ahead_seconds=ahead.total_seconds())

        health = self._reader.run(work)
        self._nodes = tuple(node.name for node in health.nodes)
        return health

    def _ask_broker(self) -> Answer:
        return self._broker.ask(queue_names(self.addresses.namespace, self._nodes))


def _in_time(question: Question[Answer], what: str, setting: str) -> Answer:
    answer = question.answer(within_seconds=2 * DOWN_AFTER_SECONDS)
    return answer or Answer(Server(is_up=False, error=f"{what} cannot be reached: {_HANGS}; see {setting}"), {})
