"""A PostgreSQL of our own, from a directory of binaries: started, recovered after any crash, and stopped."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

import psutil
import structlog

from aggregator.embedded.account import server_account
from aggregator.embedded.binaries import runnable_binaries
from aggregator.embedded.directories import PASSABLE, make_directory, remove_socket_directory, socket_directory
from aggregator.embedded.failure import explain_failure, log_since
from aggregator.embedded.ports import LOOPBACK, free_port, require_free
from aggregator.embedded.postgres_cluster import DATABASE, ROLE, Cluster
from aggregator.embedded.postgres_settings import server_arguments
from aggregator.embedded.process import end_leftovers, end_process, processes_in, start_process, wait_until
from aggregator.errors import EnvironmentRefusedError

if TYPE_CHECKING:
    import subprocess
    from types import TracebackType

log = structlog.get_logger(__name__)

PORT_SETTING = "AGGREGATOR_POSTGRES_PORT"
#: Replaying what a crash left may take a while on a slow disk.
START_PATIENCE = timedelta(seconds=120)
#: SIGINT is the fast shutdown. SIGTERM would wait for clients, for ever. SIGQUIT recovers at the next start.
_STOP_STEPS = ((signal.SIGINT, timedelta(seconds=20)), (signal.SIGQUIT, timedelta(seconds=5)))
_LEFTOVER_POSTMASTER_STEP = (signal.SIGINT, timedelta(seconds=10))
_LEFTOVER_BACKENDS_STEP = (signal.SIGQUIT, timedelta(seconds=2))
_STATUS_LINE = 7


class EmbeddedPostgres:
    """One PostgreSQL below `home`, on a unix socket and on 127.0.0.1 with a password.

    `binaries`: the directory that holds `postgres` and `initdb`. `port`: None takes any free one. `fsync=False` is for
    tests: a crash of the machine may lose the cluster. The caller sees to it that no other process starts the same
    `home`: whatever runs there is taken for a leftover and ended.
    """

    def __init__(
        self, home: Path, *, binaries: Path, port: int | None, fsync: bool = True, log_file: Path | None = None
    ) -> None:
        self._home = home
        self._binaries = binaries
        self._fixed_port = port
        self._fsync = fsync
        self._log_file = log_file or home / "server.log"
        self._account = server_account()
        self._process: subprocess.Popen[bytes] | None = None
        self._port = port or 0
        self._password = ""
        self._sockets = home
        self._log_offset_bytes = 0

    @property
    def url(self) -> str:
        """`postgresql://aggregator:...@127.0.0.1:port/aggregator`; known after the start."""
        return f"postgresql://{ROLE}:{quote(self._password)}@{LOOPBACK}:{self._port}/{DATABASE}"

    @property
    def socket_url(self) -> str:
        """The same over the unix socket, as psycopg2 and SQLAlchemy read it."""
        sockets = quote(str(self._sockets), safe="")
        return f"postgresql://{ROLE}:{quote(self._password)}@/{DATABASE}?host={sockets}&port={self._port}"

    @property
    def process_id(self) -> int | None:
        """The postmaster's, while it runs."""
        return self._process.pid if self._process and self.is_alive() else None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start and wait until connections are accepted.

        Raises EnvironmentRefusedError, with the remedy: port taken, another version's or user's data, disk full.
        """
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Start without waiting: another server can start meanwhile. Call it from the main thread."""
        make_directory(self._home, mode=PASSABLE)
        if not self._account.can_enter(self._home):
            raise EnvironmentRefusedError(
                f"PostgreSQL cannot run as root, and its own user cannot reach {self._home};"
                " name a place that others may pass through with --data-dir"
            )
        cluster = Cluster(self._home, runnable_binaries(self._binaries, self._home, self._account), self._account)
        self._end_leftovers(cluster)
        self._choose_port()
        self._password = cluster.prepare(is_durable=self._fsync)
        longest = f".s.PGSQL.{self._port}.lock"
        self._sockets = socket_directory(self._home, self._account, longest_name=longest)
        self._remove_stale_files(cluster)
        self._spawn(cluster)

    def _choose_port(self) -> None:
        if self._fixed_port is not None:
            require_free(LOOPBACK, self._fixed_port, what="PostgreSQL", setting=PORT_SETTING)
        elif not self._port:
            self._port = free_port()

    def _spawn(self, cluster: Cluster) -> None:
        arguments = server_arguments(
            port=self._port,
            socket_directory=self._sockets,
            cluster_name=self._cluster_name,
            major=cluster.major(),
            is_durable=self._fsync,
        )
        with self._log_file.open("ab") as output:
            self._log_offset_bytes = output.tell()
            self._process = start_process(
                [str(cluster.binaries / "postgres"), "-D", str(cluster.data), *arguments],
                output=output,
                environment=cluster.environment,
                parent_death_signal=signal.SIGINT,
                account=self._account,
                directory=Path("/"),
            )

    def wait_ready(self) -> None:
        """Wait for what `launch` has started; raises as `start` does."""
        wait_until(lambda: not self.is_alive() or self._is_ready(), START_PATIENCE)
        if not self.is_alive() or not self._is_ready():
            said = log_since(self._log_file, self._log_offset_bytes)
            self.stop()
            raise explain_failure("PostgreSQL's start", said, place=self._home)

    def _is_ready(self) -> bool:
        """The postmaster says so in the eighth line of its pid file."""
        lines = _lines(self._home / "data" / "postmaster.pid")
        if self._process is None or len(lines) <= _STATUS_LINE or lines[0].strip() != str(self._process.pid):
            return False
        return lines[_STATUS_LINE].strip() == "ready"

    def stop(self) -> None:
        """Stop it, fast and clean if it obeys; nothing is left running. A second call does nothing."""
        if self._process is not None:
            end_process(self._process, *_STOP_STEPS)
            self._process = None
            remove_socket_directory(self._sockets, self._home)

    def is_alive(self) -> bool:
        """Whether the postmaster runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def _cluster_name(self) -> str:
        """Shown in the title of each of its processes: how leftovers are found."""
        return "aggregator-" + hashlib.sha256(os.fsencode(self._home.resolve())).hexdigest()[:12]

    def _end_leftovers(self, cluster: Cluster) -> None:
        """End a postmaster, or backends without one, of a run that was killed: they hold the shared memory."""
        if not (cluster.data / "postmaster.pid").exists():
            return

        def find() -> list[psutil.Process]:
            return processes_in(cluster.data, name="postgres", mark=self._cluster_name)

        if find():
            log.info("leftover_processes_ended", directory=str(cluster.data))
            postmaster = "".join(_lines(cluster.data / "postmaster.pid")[:1]).strip()
            end_leftovers(lambda: [one for one in find() if str(one.pid) == postmaster], _LEFTOVER_POSTMASTER_STEP)
            end_leftovers(find, _LEFTOVER_BACKENDS_STEP)

    def _remove_stale_files(self, cluster: Cluster) -> None:
        """Remove lock files of a dead run whose process ids others have now, or that cannot be read.

        PostgreSQL would refuse to start. Everything that ran in this cluster has ended before. A file may have been cut
        short by a loss of power. Where the id is unused, PostgreSQL decides by itself.
        """
        for stale in self._sockets.glob(".s.PGSQL.*"):
            stale.unlink(missing_ok=True)
        pid_file = cluster.data / "postmaster.pid"
        first = "".join(_lines(pid_file)[:1]).strip()
        if not first.isdecimal() or psutil.pid_exists(int(first)):
            pid_file.unlink(missing_ok=True)


def _lines(path: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    return []
