"""Connections on which the server has gone silent: noticed while it owes an answer, and cut off, so that waiting ends.

The kernel's own limits (keepalives, `tcp_user_timeout`) notice a peer that acknowledges nothing. They do not notice one
that is acknowledged by something in between, or whose process stands still: libpq then waits for ever, and no signal
interrupts it (docs/pitfalls.md#half-open).
"""

from __future__ import annotations

import os
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy import Connection, Engine

log = structlog.get_logger(__name__)

#: As the driver has it: a command is in progress.
_ACTIVE = 1
LOOK_EVERY_SECONDS = 1.0
#: So long no answer is nothing unusual; the first statement of a transaction takes no time on any server that works.
OWED = timedelta(seconds=15)
#: How often the server is asked then, over another connection, whether it still works on it.
ASK_EVERY_SECONDS = 4.0
#: The server ends a statement by itself at its timeout: so long after that nothing is to be expected any more.
BESIDE_TIMEOUT = timedelta(seconds=5)
ASK_SECONDS = 5.0
#: `last_data_sent` and `last_data_recv` of Linux' `tcp_info`, in milliseconds.
_TCP_INFO = struct.Struct("=44xI4xI")


@dataclass(eq=False)
class Watched:
    """A transaction that is watched: its driver connection, and a descriptor of its own for the socket under it.

    `backend`: the server process that works on it, once it is known.
    """

    engine: Engine
    driver: Any
    socket: socket.socket
    limit: timedelta
    backend: int | None = None
    doubts: int = 0
    asked_at: float = 0.0

    def owed(self) -> timedelta:
        """For how long the server has owed an answer, and nothing has moved; nothing while it is our turn."""
        if self.driver.get_transaction_status() != _ACTIVE:
            return timedelta(0)
        info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        return timedelta(milliseconds=min(_TCP_INFO.unpack(info)))

    def is_lost(self) -> bool:
        """Whether no answer is to be expected any more; may ask the server, which takes seconds at the most."""
        owed = self.owed()
        if owed < OWED:
            self.doubts = 0
            return False
        if owed > self.limit + BESIDE_TIMEOUT:
            return True
        if time.monotonic() - self.asked_at < ASK_EVERY_SECONDS:
            return False
        self.asked_at = time.monotonic()
        if self.backend is None:
            # Nothing is known but that the first statement waits: behind a PgBouncer for a session, as others would.
            return _ask(self.engine, _ANSWERS, 1) is not None
        # Twice: an answer may be on its way.
        self.doubts = self.doubts + 1 if _is_working(self.engine, self.backend) is False else 0
        return self.doubts > 1


@dataclass
class Watcher:
    """The thread of a process that looks after its transactions."""

    process_id: int = field(default_factory=os.getpid)
    _watched: set[Watched] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _thread: threading.Thread | None = None

    def add(self, watched: Watched) -> None:
        """Look after one more."""
        with self._lock:
            self._watched.add(watched)
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._look_for_ever, name="silence", daemon=True)
                thread.start()
                self._thread = thread

    def remove(self, watched: Watched) -> None:
        """It has ended."""
        with self._lock:
            self._watched.discard(watched)
            watched.socket.close()

    def _look_for_ever(self) -> None:
        while True:
            time.sleep(LOOK_EVERY_SECONDS)
            with self._lock:
                watched = tuple(self._watched)
            for one in watched:
                try:
                    self._look(one)
                except Exception:  # whatever it is: the others are looked after, and this one is again
                    log.exception("silence_not_looked_for")

    def _look(self, watched: Watched) -> None:
        try:
            is_lost = watched.is_lost()
        except (OSError, watched.engine.dialect.import_dbapi().Error):  # it has ended meanwhile
            return
        if not is_lost:
            return
        if watched.backend is not None:
            _end_session(watched.engine, watched.backend)
        with self._lock:
            if watched in self._watched:
                log.warning("database_silent", host=watched.engine.url.host, backend=watched.backend)
                # libpq, which waits in another thread, reads the end of the connection.
                watched.socket.shutdown(socket.SHUT_RDWR)


_watchers: list[Watcher] = []


def _watcher() -> Watcher:
    """This process' own: a thread does not survive a fork."""
    if not _watchers or _watchers[0].process_id != os.getpid():
        _watchers[:] = [Watcher()]
    return _watchers[0]


@contextmanager
def watched(connection: Connection, *, limit: timedelta) -> Iterator[Watched | None]:
    """Cut a connection off where the server no longer answers; `limit`: its statement timeout.

    None where there is nothing to be watched: on a unix socket, and on systems other than Linux.
    """
    driver: Any = connection.connection.dbapi_connection
    if not _is_on_tcp(connection.engine.url.host):
        yield None
        return
    # The driver may close its own descriptor at any moment, and its number may then be another file's.
    descriptor = socket.socket(fileno=os.dup(driver.fileno()))
    watcher, one = _watcher(), Watched(connection.engine, driver, descriptor, limit)
    watcher.add(one)
    try:
        yield one
    finally:
        watcher.remove(one)


def _is_on_tcp(host: str | None) -> bool:
    return sys.platform == "linux" and bool(host) and not str(host).startswith("/")


def _is_working(engine: Engine, backend: int) -> bool | None:
    """Whether the server process is busy; None where nobody can say, or not in time."""
    answer = _ask(engine, _STATE, backend)
    state = "disabled" if answer is None else str(answer[0])
    return None if state == "disabled" else state == "active"


def _end_session(engine: Engine, backend: int) -> None:
    """End what waits for us in vain on the server, with its locks.

    By itself it would do so after a minute; in the middle of a COPY, whose wait no timeout of the server ends, never.
    """
    _ask(engine, _END, backend)


#: Use no index: the sessions are in memory.
_ANSWERS = "SELECT %s"
#: In the middle of a COPY a server that waits for its client is `active`.
_STATE = """
    SELECT coalesce((
        SELECT CASE WHEN wait_event = 'ClientRead' THEN 'waits' ELSE coalesce(state, 'disabled') END
        FROM pg_stat_activity WHERE pid = %s
    ), 'gone')
"""
_END = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE pid = %s AND (state LIKE 'idle in transaction%%' OR state = 'active' AND wait_event = 'ClientRead')
        AND usename = current_user
"""


def _ask(engine: Engine, statement: str, backend: int) -> tuple[Any, ...] | None:
    """The one row of a statement on another connection; None where the server does not answer in time."""
    deadline = time.monotonic() + ASK_SECONDS
    _, where = engine.dialect.create_connect_args(engine.url)
    driver: Any = engine.dialect.import_dbapi()
    try:
        # Asynchronous: this very question must not wait for ever.
        with closing(driver.connect(**where, async_=True)) as connection:
            _await(connection, deadline)
            cursor = connection.cursor()
            cursor.execute(statement, (backend,))
            _await(connection, deadline)
            return tuple(cursor.fetchone())
    except (driver.Error, TimeoutError):
        return None


_READ = 1


def _await(connection: Any, deadline: float) -> None:  # noqa: ANN401 - the driver's
    """Wait until an asynchronous connection has done what it was asked; raises TimeoutError."""
    while (wanted := connection.poll()) != 0:
        waiting = select.poll()
        waiting.register(connection.fileno(), select.POLLIN if wanted == _READ else select.POLLOUT)
        if not waiting.poll(max(deadline - time.monotonic(), 0.0) * 1_000):
            raise TimeoutError
