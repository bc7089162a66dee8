"""Machines of a test: a home, a node name and an environment each, in which the real commands are run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg2

from aggregator.embedded.ports import free_port
from aggregator.embedded.process import end_process, start_process, wait_until

ROOT = Path(__file__).parents[2]
PATIENCE = timedelta(seconds=60)
COMMAND_TIMEOUT_SECONDS = 60
#: Quick to start, and without the chatter between workers that a test does not need.
WORKER = ("celery", "-A", "aggregator", "worker", "--without-gossip", "--without-mingle")
BEAT = ("celery", "-A", "aggregator", "beat")
_STOP_STEP = (signal.SIGTERM, timedelta(seconds=20))


@dataclass
class Running:
    """A process that a test has started, with what it writes."""

    process: subprocess.Popen[bytes]
    log: Path

    def says(self, *words: str) -> None:
        """Wait until it has written one of these."""
        wait_until(
            lambda: any(one in self.log.read_text() for one in words) or self.process.poll() is not None, PATIENCE
        )
        assert any(one in self.log.read_text() for one in words), self.log.read_text()[-5_000:]

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
    except FileNotFoundError:
        return b"exporter"


def kill(process_id: int) -> None:
    """SIGKILL, as the kernel does it when memory runs out."""
    os.kill(process_id, signal.SIGKILL)
