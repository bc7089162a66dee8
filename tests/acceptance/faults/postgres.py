"""Faults of PostgreSQL: restarted in every way, its locks held, its disk full, an older dump in its place."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg2

from aggregator.embedded.wheels import postgres_binaries
from tests.acceptance.faults.fault import Fault
from tests.acceptance.faults.scene import Scene
from tests.acceptance.faults.servers import Postgres
from tests.acceptance.machines import COMMAND_TIMEOUT_SECONDS, PATIENCE, kill, rows
from tests.small_disk import fill

#: A moment longer than the service waits for a lock.
LONGER_THAN_A_LOCK_IS_WAITED_FOR = timedelta(seconds=6)
_ATTEMPTS = 10
_BACKENDS = (
    "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'aggregator %%' AND datname = current_database()"
)


def _kill_a_backend(scene: Scene) -> None:
    """SIGKILL to one of our sessions: the server ends all others, and recovers."""

    def has_killed() -> bool:
        for (process_id,) in rows(scene.database_url, _BACKENDS)[:1]:
            with suppress(ProcessLookupError):  # it may have ended by itself
                kill(process_id)
                return True
        return False

    assert scene.wait(has_killed, PATIENCE)


@dataclass
class Held:
    """A session that holds something in an open transaction."""

    statement: str
    _connection: Any = field(default=None, init=False)

    def take(self, scene: Scene) -> None:
        """Take it."""
        self._connection = psycopg2.connect(scene.database_url)
        self._connection.cursor().execute(self.statement)

    def give_back(self, _: Scene) -> None:
        """Give it back."""
        self._connection.rollback()
        self._connection.close()

    def fault(self, name: str, expected: str) -> Fault:
        """That it is held for a while."""
        return Fault(name, expected, self.take, self.give_back, lasts=LONGER_THAN_A_LOCK_IS_WAITED_FOR)


FAST_RESTART = Fault(
    "PostgreSQL: fast restart",
    "sessions are cut off; whole transactions are done again",
    lambda scene: scene.postgres.stop(),
    lambda scene: scene.postgres.start(),
    lasts=timedelta(seconds=1),
)
IMMEDIATE_RESTART = Fault(
    "PostgreSQL: immediate shutdown (QUIT), start",
    "recovery from its log; what was committed is there",
    lambda scene: scene.postgres.signal(signal.SIGQUIT),
    lambda scene: scene.postgres.start(),
    lasts=timedelta(seconds=1),
)
SERVER_KILLED = Fault(
    "PostgreSQL: kill -9 of all of it, start",
    "as after a loss of power",
    lambda scene: scene.postgres.kill(),
    lambda scene: scene.postgres.start(),
    lasts=timedelta(seconds=1),
)
BACKEND_KILLED = Fault(
    "PostgreSQL: kill -9 of one backend",
    "the server ends all sessions and recovers by itself",
    _kill_a_backend,
    lasts=timedelta(0),
)
PARTITION_LOCKED = Held("LOCK TABLE aggregator.rollup_5s, aggregator.rollup_1m IN ACCESS EXCLUSIVE MODE").fault(
    "ACCESS EXCLUSIVE on rollups of two tiers, longer than lock_timeout",
    "collections go on; rollups give up and come later",
)
SHARDS_LOCKED = Held("SELECT id FROM aggregator.shards FOR NO KEY UPDATE").fault(
    "a session holds all shards' rows", "collections go on; rollups skip the shards"
)
TARGETS_LOCKED = Held("SELECT id FROM aggregator.targets FOR UPDATE").fault(
    "a session holds all targets' rows, longer than lock_timeout",
    "collections wait, give up, and their slots are counted",
)
FAULTS = (
    FAST_RESTART,
    IMMEDIATE_RESTART,
    SERVER_KILLED,
    BACKEND_KILLED,
    PARTITION_LOCKED,
    SHARDS_LOCKED,
    TARGETS_LOCKED,
)


def disk_full(place: Path, *, lasts: timedelta) -> Fault:
    """The file system of PostgreSQL's data is full for a while; a supervisor starts the server where it has ended."""
    fillers: list[Path] = []

    def heal(scene: Scene) -> None:
        fillers.pop().unlink()
        assert scene.wait(lambda: _serves(scene.postgres), PATIENCE)

    return Fault(
        "PostgreSQL: disk full",
        "slots are missed and counted; all goes on when there is space",
        lambda _: fillers.append(fill(place)),
        heal,
        lasts=lasts,
        limit=timedelta(seconds=20),
        shows=_is_out_of_space,
    )


def _serves(postgres: Postgres) -> bool:
    """Whether it answers; started where it has ended: one whose recovery has just failed is there a moment longer."""
    if not postgres.embedded.is_alive():
        postgres.start()
    return postgres.answers()


def _is_out_of_space(scene: Scene) -> bool:
    """Whether somebody has asked for space: tables and the write-ahead log have room of their own for a while."""
    return any(words in scene.logs() for words in ("No space left on device", "cannot be reached"))


def _run(program: str, *words: str) -> None:
    done = subprocess.run(
        [str(postgres_binaries() / program), *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=COMMAND_TIMEOUT_SECONDS,
    )
    assert done.returncode == 0, done.stderr


def dump(url: str, path: Path) -> None:
    """What `pg_dump` says of the service's schema."""
    _run("pg_dump", "--schema=aggregator", f"--file={path}", url)


def restore_in_place(url: str, path: Path) -> None:
    """In one transaction: nobody is cut off. `pg_dump --clean` would not do, it cannot drop a partition's key."""
    empty = "--command=DROP SCHEMA aggregator CASCADE"
    for attempt in range(_ATTEMPTS):
        try:
            _run("psql", "--quiet", "--single-transaction", "--set=ON_ERROR_STOP=1", empty, f"--file={path}", url)
        except AssertionError as error:
            # Workers go on meanwhile: it may be this session that the server ends then.
            if "deadlock detected" not in str(error) or attempt == _ATTEMPTS - 1:
                raise
        else:
            return


def restore_anew(url: str, path: Path) -> None:
    """As most people do it: everybody is cut off, the database dropped and made anew, the dump read into it."""
    with closing(psycopg2.connect(url.rpartition("/")[0] + "/postgres")) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("ALTER DATABASE aggregator ALLOW_CONNECTIONS false")
            cursor.execute(_END_SESSIONS)
            cursor.execute("DROP DATABASE aggregator")
            cursor.execute("CREATE DATABASE aggregator")
    _run("psql", "--quiet", "--set=ON_ERROR_STOP=1", "--single-transaction", f"--file={path}", url)


_END_SESSIONS = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = 'aggregator'"


def restored(path: Path, restore: Callable[[str, Path], None], how: str) -> Fault:
    """An older dump takes the place of what is there, under running workers."""
    return Fault(
        f"an older dump is restored {how}, under running workers",
        "what came after the dump is gone and its slots count as missed; nothing lands under another series' name",
        lambda scene: restore(scene.database_url, path),
        lasts=timedelta(0),
        is_restorable=False,
    )
