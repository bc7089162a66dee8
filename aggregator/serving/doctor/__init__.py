"""The doctor looks at servers, rights, clocks, settings, configuration and this machine: a remedy for each fault."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aggregator.config.digest import config_hash
from aggregator.errors import AggregatorError
from aggregator.serving.doctor import agreement, machine, postgres, rabbitmq_server, redis_server
from aggregator.serving.doctor.finding import Finding, fine, unreachable, warning, wrong
from aggregator.serving.status import Server, Status, is_node_alive
from aggregator.storage.health import Health, HealthReader
from aggregator.storage.reading import Reader
from aggregator.storage.schema import schema_fault
from aggregator.storage.server_facts import server_facts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pydantic import SecretStr

    from aggregator.config.model import Settings

PARTITIONS_AHEAD_HOURS = 12


@dataclass
class Doctor:
    """Examines one installation from one machine; asks every server with a short timeout and writes nothing."""

    settings: Settings
    health: Health | None = field(default=None, init=False)

    def examine(self) -> Iterator[Finding]:
        """All findings, in the order in which faults are best repaired."""
        yield from self._database()
        yield from self._broker()
        yield from self._cache()
        if self.health is not None:
            now = datetime.now(UTC)
            yield from agreement.diagnose(
                self.health, config_hash=config_hash(self.settings), has_file=self.settings.file is not None, now=now
            )
        yield from machine.diagnose(self.settings, runs_worker=self._runs_worker())
        yield from self._installation()

    def _database(self) -> Iterator[Finding]:
        url = _value(self.settings.database_url)
        if url is None:
            yield wrong("database", "none is configured", "set AGGREGATOR_DATABASE_URL, or start `aggregator up`")
            return
        try:
            reader = Reader.connect(url, application="aggregator doctor")
        except AggregatorError as error:
            yield wrong("database", str(error), "correct AGGREGATOR_DATABASE_URL")
            return
        try:
            yield from self._ask_database(reader)
        except AggregatorError as error:
            remedy = "start it, and check AGGREGATOR_DATABASE_URL, the password and the firewall"
            # What follows names the setting, as the remedy does.
            yield unreachable("database", str(error).partition("; see ")[0], remedy)
        finally:
            reader.dispose()

    def _ask_database(self, reader: Reader) -> Iterator[Finding]:
        facts = reader.run(lambda connection: server_facts(connection, postgres.SETTINGS))
        yield from postgres.diagnose(facts, now=datetime.now(UTC))
        fault = reader.run(schema_fault)
        if fault is not None:
            yield wrong("schema", fault, "run `aggregator db migrate` at this version of the program")
            return
        yield fine("schema", "it is the one that this version needs")
        self.health = reader.run(lambda connection: HealthReader().read(connection, now=datetime.now(UTC)))
        yield _partitions(self.health, now=datetime.now(UTC))

    def _broker(self) -> Iterator[Finding]:
        url = _value(self.settings.broker_url)
        if url is None:
            yield wrong("broker", "none is configured", "set AGGREGATOR_BROKER_URL, or start `aggregator up`")
        elif urlsplit(url).scheme.startswith(("amqp", "pyamqp")):
            yield from _asked("broker", url, lambda: rabbitmq_server.diagnose(rabbitmq_server.server_properties(url)))
        else:
            yield from _asked("broker", url, lambda: _redis("broker", url, holds_messages=True))

    def _cache(self) -> Iterator[Finding]:
        url, broker = _value(self.settings.cache_url), _value(self.settings.broker_url)
        if url is None:
            yield warning("cache", "none is configured: summaries are in PostgreSQL only", "set AGGREGATOR_CACHE_URL")
            return
        yield from _asked("cache", url, lambda: _redis("cache", url, holds_messages=False))
        if broker is not None and not urlsplit(broker).scheme.startswith(("amqp", "pyamqp")):
            try:
                is_shared = redis_server.shares_database(broker, url)
            except AggregatorError:
                return  # it was said above that a URL cannot be read
            if is_shared:
                says = "it is the broker's own database: what empties one empties both"
                yield warning("cache apart", says, "let AGGREGATOR_CACHE_URL name another database, or another server")

    def _runs_worker(self) -> bool:
        now = datetime.now(UTC)
        nodes = self.health.nodes if self.health is not None else ()
        return any(node.name == self.settings.node and is_node_alive(node, now=now) for node in nodes)

    def _installation(self) -> Iterator[Finding]:
        """What `aggregator status` calls a problem."""
        if self.health is None:
            return
        status = Status(datetime.now(UTC), {"database": Server(is_up=True)}, self.health)
        problems = status.problems()
        for problem in problems:
            yield wrong("service", problem, "`aggregator status` shows the whole of it")
        if not problems:
            yield fine("service", "everything is collected and rolled up in time")


def _value(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret is not None else None


def _redis(about: str, url: str, *, holds_messages: bool) -> Iterator[Finding]:
    return redis_server.diagnose(about, redis_server.server_information(url), holds_messages=holds_messages)


def _asked(about: str, url: str, ask: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of a server, or that it cannot be reached; the password is not in the reason."""
    try:
        yield from ask()
    except AggregatorError as error:
        yield wrong(about, str(error), f"correct AGGREGATOR_{about.upper()}_URL")
    except Exception as error:  # noqa: BLE001 - whatever a driver raises, the server did not answer
        reason = (str(error).strip().split("\n")[0] or type(error).__name__).replace(
            urlsplit(url).password or "\0", "***"
        )
        yield unreachable(about, reason, f"start it, and check AGGREGATOR_{about.upper()}_URL")


def _partitions(health: Health, *, now: datetime) -> Finding:
    """How far partitions reach, of the table that has the fewest ahead."""
    table, end = min(health.partitions_end.items(), key=lambda item: (item[1] is not None, item[1]))
    hours = (end - now).total_seconds() / 3_600 if end is not None else 0.0
    says = f"they reach {hours:,.0f} h ahead (table {table})"
    if hours < PARTITIONS_AHEAD_HOURS:
        remedy = "run `aggregator maintain` and read what it says; does beat wake it (queue maintain)?"
        return (wrong if hours <= 0 else warning)("partitions", says, remedy)
    return fine("partitions", says)


__all__ = ["Doctor", "Finding"]
