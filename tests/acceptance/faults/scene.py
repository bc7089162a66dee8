"""A scene: beats, workers, real sources and servers of their own, in which faults are injected while all of it runs."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg2

from aggregator.embedded.ports import free_port
from aggregator.embedded.process import POLL_SECONDS
from tests.acceptance.faults.servers import Postgres, Redis, Server
from tests.acceptance.faults.target import target
from tests.acceptance.ledger_check import LedgerCheck, Outage, check_ledger
from tests.acceptance.machines import BEAT, PATIENCE, WORKER, Machine, Running, rows
from tests.silent_proxy import SilentProxy, silent_proxy

#: What a supervisor waits before it starts again what has ended by itself.
RESTART_PAUSE = timedelta(seconds=1)
#: A short finest tier, so that buckets end while a test runs.
CONFIGURATION = """
lateness = "1s"

[[sources]]
name = "often"
kind = "host"
interval = "1s"
keep = ["node_load1", "node_cpu_seconds_total", "node_time_seconds"]

[[sources]]
name = "slow"
kind = "command"
command = ["sh", "-c", "sleep 1; echo slow=1"]
parse = "key_value"
interval = "4s"
timeout = "4s"

[[sources]]
name = "scraped"
kind = "prometheus"
targets = ["{target}"]
interval = "2s"
timeout = "1s"

[[sources]]
name = "self"
kind = "selftest"
interval = "2s"
timeout = "2s"

[[tiers]]
name = "5s"
step = "5s"
retention = "1d"
"""
_NEXT = """
    SELECT o.name || '@' || coalesce(n.name, ''), min(c.finished_at)
    FROM aggregator.collections AS c JOIN aggregator.shards AS s ON s.id = c.shard_id
    JOIN aggregator.sources AS o ON o.id = s.source_id LEFT JOIN aggregator.nodes AS n ON n.id = s.node_id
    WHERE c.started_at > %s AND c.finished_at IS NOT NULL AND 1 = ANY (c.outcome) AND NOT s.is_intake AND NOT c.by_hand
    GROUP BY 1
"""
_SHARDS = """
    SELECT o.name || '@' || coalesce(n.name, '') FROM aggregator.shard_slots AS l
    JOIN aggregator.shards AS s ON s.id = l.shard_id JOIN aggregator.sources AS o ON o.id = s.source_id
    LEFT JOIN aggregator.nodes AS n ON n.id = s.node_id
"""


@dataclass(frozen=True)
class Cast:
    """Who plays in a scene. `celeryconfig`: Celery settings applied after ours; `environment`: of all our processes."""

    workers: int = 1
    beats: int = 1
    web: bool = False
    configuration: str = CONFIGURATION
    celeryconfig: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Actor:
    """One of our processes, as a supervisor keeps it: what ends by itself is started again after a pause."""

    name: str
    machine: Machine
    words: tuple[str, ...]
    running: Running | None = None
    is_wanted: bool = False
    ended_at: float | None = None
    restarts: int = 0

    @property
    def process_id(self) -> int:
        """Of the process that runs now."""
        assert self.running is not None
        return self.running.process.pid

    def start(self) -> None:
        """Start it; main thread only."""
        self.running = self.machine.start(*self.words)
        self.is_wanted, self.ended_at = True, None

    def kill(self) -> None:
        """SIGKILL to it and to all of its session; nobody starts it again."""
        self.is_wanted = False
        if self.running is not None:
            self.running.kill()

    def stop(self) -> None:
        """Stop it as a supervisor does; nobody starts it again."""
        self.is_wanted = False
        if self.running is not None:
            self.running.stop()

    def tend(self) -> None:
        """Start it again where it has ended by itself, after the pause."""
        if not self.is_wanted or self.running is None or self.running.process.poll() is None:
            return
        now = time.monotonic()
        if self.ended_at is None:
            self.running.kill()  # what is left of its session, as systemd does
            self.ended_at = now
        elif now - self.ended_at >= RESTART_PAUSE.total_seconds():
            self.restarts += 1
            self.start()


@dataclass
class Scene:
    """All of it. `database_url` and the servers' URLs are without the proxies: what the test itself looks through."""

    folder: Path
    postgres: Postgres
    broker: Server
    database_proxy: SilentProxy
    broker_proxy: SilentProxy
    machines: list[Machine]
    actors: list[Actor]
    outages: list[Outage] = field(default_factory=list)

    @property
    def database_url(self) -> str:
        """PostgreSQL itself."""
        return self.postgres.url

    @property
    def workers(self) -> list[Actor]:
        """The workers, one for each node."""
        return [one for one in self.actors if one.name.startswith("worker")]

    @property
    def beats(self) -> list[Actor]:
        """The beats."""
        return [one for one in self.actors if one.name.startswith("beat")]

    @property
    def redis(self) -> Redis:
        """The broker, where it is Redis."""
        assert isinstance(self.broker, Redis)
        return self.broker

    def open(self) -> None:
        """Migrate, start everybody, and wait until each source has been collected."""
        self.machines[0].run("aggregator", "db", "migrate")
        for actor in self.actors:
            actor.start()
        wanted = 2 * len(self.machines) + 2
        assert self.wait(lambda: len(self.collected_since(datetime.min.replace(tzinfo=UTC))) >= wanted, PATIENCE)

    def tend(self) -> None:
        """What the supervisor does now and then."""
        for actor in self.actors:
            actor.tend()

    def wait(self, condition: Callable[[], bool], patience: timedelta) -> bool:
        """Whether a condition came true in time, under supervision."""
        deadline = time.monotonic() + patience.total_seconds()
        while not condition():
            if time.monotonic() > deadline:
                return False
            self.tend()
            time.sleep(5 * POLL_SECONDS)
        return True

    def live(self, duration: timedelta) -> None:
        """Let it run for a while, under supervision."""
        until = time.monotonic() + duration.total_seconds()
        while (left := until - time.monotonic()) > 0:
            self.tend()
            threading.Event().wait(min(left, 0.1))

    def collected_since(self, instant: datetime) -> dict[str, datetime]:
        """For each shard (`source@node`) the end of its first good collection that began after an instant."""
        try:
            return {str(name): at for name, at in rows(self.database_url, _NEXT, instant)}
        except psycopg2.Error:
            return {}

    def shards(self) -> set[str]:
        """All that have slots."""
        return {str(name) for (name,) in rows(self.database_url, _SHARDS)}

    def close(self) -> None:
        """Stop everybody, beats first."""
        for actor in (*self.beats, *(one for one in self.actors if one not in self.beats)):
            actor.stop()

    def check(self) -> LedgerCheck:
        """Stop everybody, and look whether all is right."""
        self.close()
        for proxy in (self.database_proxy, self.broker_proxy):
            proxy.speak()
            proxy.close()
        return check_ledger(self.machines[0], self.database_url, outages=self.outages)

    def said(self) -> str:
        """All that everybody wrote."""
        return "".join(running.said() for machine in self.machines for running in machine.started)

    def logs(self) -> str:
        """The ends of what everybody wrote."""
        logs = [running.log for machine in self.machines for running in machine.started]
        return "\n".join(f"--- {log}\n{log.read_text(errors='replace')[-6_000:]}" for log in logs)


@contextmanager
def scene(folder: Path, servers: Path, *, broker: Server | None = None, cast: Cast = Cast()) -> Iterator[Scene]:
    """A scene that is open; `servers`: a place that PostgreSQL's user may pass through."""
    with ExitStack() as stack:
        postgres = Postgres(servers / "pg")
        postgres.start()
        stack.callback(postgres.stop)
        used = broker if broker is not None else Redis(servers / "redis")
        used.start()
        stack.callback(used.stop)
        made = _set(stack, folder, postgres, used, cast)
        try:
            made.open()
            yield made
        except BaseException:
            print(made.logs())  # noqa: T201 - shown where the test fails
            raise
        finally:
            made.close()


def _set(stack: ExitStack, folder: Path, postgres: Postgres, broker: Server, cast: Cast) -> Scene:
    database_proxy = stack.enter_context(_proxy(postgres.url))
    broker_proxy = stack.enter_context(_proxy(broker.url))
    urls = {
        "AGGREGATOR_DATABASE_URL": database_proxy.before(postgres.url),
        "AGGREGATOR_BROKER_URL": broker_proxy.before(broker.url),
        "AGGREGATOR_WEB_LISTEN": f"127.0.0.1:{free_port()}",
        "AGGREGATOR_LOG_FORMAT": "json",
    }
    text = cast.configuration.format(target=stack.enter_context(target()))
    machines = []
    for name in "abcdefgh"[: cast.workers]:
        machine = Machine(folder / name, name, {**urls, **cast.environment})
        machine.configure(text)
        if cast.celeryconfig:
            own = folder / name / "celery.py"
            own.write_text(cast.celeryconfig)
            machine.environment["AGGREGATOR_CELERYCONFIG"] = str(own)
        machines.append(machine)
    actors = [Actor(f"worker-{machine.node}", machine, WORKER) for machine in machines]
    actors += [Actor(f"beat-{number}", machines[number % len(machines)], BEAT) for number in range(cast.beats)]
    if cast.web:
        actors.append(Actor("web", machines[0], ("aggregator", "web")))
    return Scene(folder, postgres, broker, database_proxy, broker_proxy, machines, actors)


@contextmanager
def _proxy(url: str) -> Iterator[SilentProxy]:
    connection = url.rpartition("@")[2].removeprefix("redis://").partition("/")[0]
    host, _, port = connection.rpartition(":")
    with silent_proxy(host, int(port)) as proxy:
        yield proxy


def note(variable: str, row: dict[str, Any]) -> None:
    """Append a line of JSON to the file that the environment names, if it names one."""
    if path := os.environ.get(variable):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
