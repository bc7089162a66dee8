"""A Valkey of our own: the broker's messages and the cached summaries, on a unix socket only."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
from datetime import timedelta
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

import structlog

from aggregator.embedded.account import Account
from aggregator.embedded.directories import PRIVATE, make_directory, remove_socket_directory, socket_directory
from aggregator.embedded.failure import explain_failure, log_since
from aggregator.embedded.process import end_leftovers, end_process, processes_in, start_process, wait_until

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path
    from types import TracebackType

    import psutil

log = structlog.get_logger(__name__)

BROKER_DATABASE = 0
CACHE_DATABASE = 1
#: Loading what was appended since the last rewrite takes seconds at most.
START_PATIENCE = timedelta(seconds=60)
_STOP_STEPS = ((signal.SIGTERM, timedelta(seconds=10)),)
_ANSWER_SECONDS = 1.0
_SOCKET_NAME = "valkey.sock"
#: What Valkey says of its files where reading them again would not help.
_DAMAGED = re.compile(
    r"Bad file format|Unexpected end of file|reading the (?:append only|RDB)|AOF manifest"
    r"|RDB.*(?:CRC|signature|corrupt)",
    re.IGNORECASE,
)

_SETTINGS = {
    "port": "0",
    "unixsocketperm": "700",
    "daemonize": "no",
    "databases": "2",
    # A second of messages may be lost with the machine. They are hints: PostgreSQL knows what is due.
    "appendonly": "yes",
    "appendfsync": "everysec",
    "save": "",
    "auto-aof-rewrite-min-size": "16mb",
    # A broker that evicts loses messages in silence.
    "maxmemory-policy": "noeviction",
    "jemalloc-bg-thread": "no",
    "always-show-logo": "no",
}


class EmbeddedValkey:
    """One Valkey below `home`. The caller sees to it that no other process starts the same `home`."""

    def __init__(self, home: Path, *, binary: Path, log_file: Path | None = None) -> None:
        self._home = home
        self._binary = binary
        self._log_file = log_file or home / "server.log"
        self._socket = home / _SOCKET_NAME
        self._process: subprocess.Popen[bytes] | None = None
        self._log_offset_bytes = 0

    @property
    def broker_url(self) -> str:
        """As Celery reads it; known after the start."""
        return f"redis+socket://{quote(str(self._socket))}?virtual_host={BROKER_DATABASE}"

    @property
    def cache_url(self) -> str:
        """As redis-py reads it; known after the start."""
        return f"unix://{quote(str(self._socket))}?db={CACHE_DATABASE}"

    @property
    def process_id(self) -> int | None:
        """The server's, while it runs."""
        return self._process.pid if self._process and self.is_alive() else None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start and wait until commands are answered; EnvironmentRefusedError, with the remedy, where it cannot."""
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Start without waiting: another server can start meanwhile. Call it from the main thread."""
        make_directory(self._home, mode=PRIVATE)
        data = make_directory(self._home / "data", mode=PRIVATE)
        sockets = socket_directory(self._home, Account.of_this_process(), longest_name=_SOCKET_NAME)
        self._socket = sockets / _SOCKET_NAME
        self._end_leftovers(data)
        self._spawn(data)

    def _spawn(self, data: Path) -> None:
        settings = _SETTINGS | {"unixsocket": str(self._socket), "dir": str(data)}
        arguments = [word for name, value in settings.items() for word in (f"--{name}", value)]
        with self._log_file.open("ab") as output:
            self._log_offset_bytes = output.tell()
            self._process = start_process(
                [str(self._binary), *arguments],
                output=output,
                environment={"LC_ALL": "C", "PATH": "/usr/bin:/bin", "TZ": "UTC"},
                parent_death_signal=signal.SIGTERM,
                directory=data,
            )

    def wait_ready(self) -> None:
        """Wait for what `launch` has started; what it cannot load is set aside, once. Raises as `start` does."""
        if self._became_ready():
            return
        said = log_since(self._log_file, self._log_offset_bytes)
        self.stop()
        if not _DAMAGED.search(said) or not self._set_aside():
            raise explain_failure("Valkey's start", said, place=self._home)
        self.launch()
        if not self._became_ready():
            self.stop()
            raise explain_failure("Valkey's start", log_since(self._log_file, self._log_offset_bytes), place=self._home)

    def _became_ready(self) -> bool:
        wait_until(lambda: not self.is_alive() or self._answers(), START_PATIENCE)
        return self.is_alive() and self._answers()

    def _set_aside(self) -> bool:
        """Rename the damaged files; False where there are none. Nothing is lost that PostgreSQL does not know."""
        damaged = self._home / "data" / "appendonlydir"
        if not damaged.exists():
            return False
        number = sum(1 for _ in damaged.parent.glob("appendonlydir.damaged-*")) + 1
        aside = damaged.rename(damaged.with_name(f"appendonlydir.damaged-{number}"))
        log.warning("broker_data_set_aside", moved_to=str(aside), reason="Valkey could not read it; starting empty")
        return True

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_ANSWER_SECONDS)
            connection.connect(str(self._socket))
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
        return False

    def stop(self) -> None:
        """Stop it; its last second is written first. A second call does nothing."""
        if self._process is not None:
            end_process(self._process, *_STOP_STEPS)
            self._process = None
            self._socket.unlink(missing_ok=True)
            remove_socket_directory(self._socket.parent, self._home)

    def is_alive(self) -> bool:
        """Whether the server runs."""
        return self._process is not None and self._process.poll() is None

    def _end_leftovers(self, data: Path) -> None:
        """End a server of a run that was killed: two must not append to the same files."""
        if not self._socket.exists():
            return

        def find() -> list[psutil.Process]:
            return processes_in(data, name=self._binary.name)

        if find():
            log.info("leftover_processes_ended", directory=str(data))
            end_leftovers(find, *_STOP_STEPS)
        self._socket.unlink(missing_ok=True)
