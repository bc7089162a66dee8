"""Machines of a test: a home, a node name and an environment each, in which the real commands are run."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import psycopg2
from kombu import Connection
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from aggregator.embedded.ports import free_port
from aggregator.embedded.process import end_process, start_process, wait_until

ROOT = Path(__file__).parents[2]
#: For what must come: long enough for a slow machine that does other work as well, and costs time where it does not.
PATIENCE = timedelta(seconds=180)
COMMAND_TIMEOUT_SECONDS = 180
#: In either format of the log.
_ERROR = re.compile(r"""level(": "|=')(error|critical)|Traceback""")
#: Quick to start, and without the chatter between workers that a test does not need.
WORKER = ("celery", "-A", "aggregator", "worker", "--without-gossip", "--without-mingle")
BEAT = ("celery", "-A", "aggregator", "beat")
#: As long as deploy/systemd gives a worker.
_STOP_STEP = (signal.SIGTERM, timedelta(seconds=30))


Answer = TypeVar("Answer")


@dataclass
class Running:
    """A process that a test has started, with what it writes."""

    process: subprocess.Popen[bytes]
    log: Path

    def says(self, *words: str) -> None:
        """Wait until it has written one of these."""
        wait_until(lambda: any(one in self.said() for one in words) or self.process.poll() is not None, PATIENCE)
        assert any(one in self.said() for one in words), self.said()[-5_000:]

    def said(self) -> str:
        """All that it has written so far; its last character may be half there."""
        return self.log.read_text(errors="replace")

    def errors(self) -> list[str]:
        """The lines that say that something failed."""
        return [line for line in self.said().splitlines() if _ERROR.search(line)]

    def kill(self) -> None:
        """End it and all of its session, without a word."""
        end_process(self.process)

    def stop(self) -> None:
        """End it as a supervisor does."""
        end_process(self.process, _STOP_STEP)


@dataclass
class Machine:
    """One node: nothing of another machine's is in its environment but the servers' URLs."""

    folder: Path
    node: str
    urls: dict[str, str]
    python: str = sys.executable
    python_path: str = str(ROOT)
    started: list[Running] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make its home."""
        self.folder.mkdir(parents=True)
        self.environment = {
            "HOME": str(self.folder),
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": self.python_path,
            "PYTHONWARNINGS": "ignore",
            "AGGREGATOR_NODE": self.node,
            "AGGREGATOR_DATA_DIR": str(self.folder / "data"),
            "AGGREGATOR_EXPORTER_LISTEN": f"127.0.0.1:{free_port()}",
            **self.urls,
        }

    def configure(self, text: str) -> None:
        """Write this machine's configuration file."""
        (self.folder / "aggregator.toml").write_text(text)

    def start(self, *words: str) -> Running:
        """Start `python -m` with these words."""
        path = self.folder / f"{len(self.started)}.log"
        with path.open("wb") as output:
            process = start_process(
                [self.python, "-m", *words],
                output=output,
                environment=self.environment,
                parent_death_signal=signal.SIGKILL,
                directory=self.folder,
            )
        running = Running(process, path)
        self.started.append(running)
        return running

    def start_worker(self) -> Running:
        """A worker that has said that it is ready."""
        worker = self.start(*WORKER)
        worker.says("ready.")
        return worker

    def run(self, *words: str, exit_code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run `python -m` with these words to its end."""
        done = subprocess.run(
            [self.python, "-m", *words],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_SECONDS,
            check=False,
        )
        assert exit_code is None or done.returncode == exit_code, done.stdout + done.stderr
        return done

    def run_until(self, is_right: Callable[[str], bool], *words: str, exit_code: int = 0) -> None:
        """Run it again and again until it says what it must, and ends so; as `right_answer`."""
        right_answer(
            lambda: self.run(*words, exit_code=None),
            lambda done: done.returncode == exit_code and is_right(done.stdout),
        )

    def python_session(self, code: str) -> str:
        """What a Python process of its own prints."""
        done = subprocess.run(
            [self.python, "-c", code],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def samples(self) -> list[Sample]:
        """What the node's exporter says; nothing while it does not answer."""
        said = fetched(f"http://{self.environment['AGGREGATOR_EXPORTER_LISTEN']}/metrics")
        return [sample for family in text_string_to_metric_families(said) for sample in family.samples]

    def stop(self) -> None:
        """End all that was started here, the last one first; their logs are shown where the test fails."""
        for running in reversed(self.started):
            running.stop()
            print(f"--- {running.log}\n{running.log.read_text(errors='replace')[-8_000:]}")  # noqa: T201 - as above


@contextmanager
def machines(*made: Machine) -> Iterator[None]:
    """End what was started on these machines."""
    try:
        yield
    finally:
        for machine in made:
            machine.stop()


def rows(url: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
    """What a statement gives, in a connection of its own."""
    connection = psycopg2.connect(url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement, values)
            return cursor.fetchall()
    finally:
        connection.close()


def ask(url: str, statement: str, *values: object) -> Any:
    """The one value that a statement gives."""
    return rows(url, statement, *values)[0][0]


def wait_for(url: str, statement: str, *values: object, patience: timedelta = PATIENCE) -> None:
    """Wait until a statement gives true."""
    found: Sequence[object] = ()

    def holds() -> bool:
        nonlocal found
        found = rows(url, statement, *values)[0]
        return found[0] is True

    assert wait_until(holds, patience), (statement, found)


def fetched(url: str) -> str:
    """What a GET gives; nothing where it is refused, fails or takes too long."""
    with suppress(OSError), urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310 - a server of the test's
        return str(response.read().decode())
    return ""


def right_answer(asked: Callable[[], Answer], is_right: Callable[[Answer], bool]) -> Answer:
    """Ask until the answer is right: what is asked gives servers but a moment, then says that they are not there."""
    found: list[Answer] = []

    def comes() -> bool:
        found[:] = [asked()]
        return is_right(found[0])

    assert wait_until(comes, PATIENCE), found
    return found[0]


def unfinished(broker_url: str, *queues: str) -> int:
    """How many messages wait for a worker; on Redis, with all those that one has and did not acknowledge."""
    with Connection(broker_url) as connection:
        channel: Any = connection.default_channel
        if connection.transport.driver_type != "redis":
            return sum(channel.queue_declare(f"aggregator.{name}", passive=True).message_count for name in queues)
        with channel.client.pipeline() as at_once:
            for name in queues:
                at_once.llen(f"aggregator:aggregator.{name}")
            return sum(at_once.hlen("aggregator:unacked").execute())


def children(process: subprocess.Popen[bytes]) -> list[int]:
    """The process ids of a worker's children that run tasks, not that of its exporter."""
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in listed if b"exporter" not in _command_line(pid)]


def sockets(process_id: int) -> set[str]:
    """The sockets of a process, by what the kernel numbers them; none where it has ended."""
    found = set()
    with suppress(FileNotFoundError):
        for descriptor in Path(f"/proc/{process_id}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                found.add(str(descriptor.readlink()))
    return {one for one in found if one.startswith("socket:")}


def _command_line(pid: str) -> bytes:
    """What a process was started with; as an exporter's, which nobody asks for, where it has ended meanwhile."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b"exporter"


def kill(process_id: int) -> None:
    """SIGKILL, as the kernel does it when memory runs out."""
    os.kill(process_id, signal.SIGKILL)
