"""Workers that are killed in the middle and started again: they collect, roll up or seal, each in its own process.

A life may end by SIGKILL at its n-th step, before or after a statement or around a COMMIT, and from outside at any
moment. From one life to the next nothing is known but what is in the database and in a file.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path

from sqlalchemy import event

from aggregator.errors import ServerUnreachableError
from aggregator.stages.collect.store import FrameStore
from aggregator.stages.rollup import Rollup
from aggregator.storage import series
from aggregator.storage.engine import Database, StorageError, is_retryable
from tests.scene import Scene
from tests.sealed import seal_everything

#: Forks from a process that has imported all of this and has neither a thread nor a connection.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.lives"])
APPLICATION = "killed"
#: Short, so that a worker looks often whether it is to stop.
BUDGET = timedelta(milliseconds=200)
#: Between two looks for work, which leaves the processor to those who have some.
PAUSE_SECONDS = 0.05


@dataclass(frozen=True)
class Job:
    """What all lives of a worker do; `folder` holds what is known from one life to the next."""

    url: str
    scene: Scene
    now: datetime
    folder: Path
    number: int

    @property
    def stored(self) -> Path:
        """How many of its arrivals a collector knows to be stored."""
        return self.folder / f"stored-{self.number}"

    @property
    def stop(self) -> Path:
        """Is there when nothing more is to be rolled up."""
        return self.folder / "stop"


def collect(job: Job, dies_at: int | None) -> None:
    """Store the arrivals of this collector, in their order, from the first one that is not known to be stored."""
    with _connected(job, dies_at) as database:
        store = FrameStore(database)
        arrivals = [one for one in job.scene.script.arrivals if one.collector == job.number]
        known = int(job.stored.read_text()) if job.stored.exists() else 0
        for count, arrival in enumerate(arrivals[known:], start=known + 1):
            insist(lambda arrival=arrival: job.scene.store(arrival, store, now=job.now))
            remember(job.stored, str(count))


def remember(file: Path, content: str) -> None:
    """Replace a file as a whole: whoever is killed over it leaves what was there before."""
    new = file.with_suffix(".new")
    new.write_text(content)
    new.replace(file)


def roll_up(job: Job, dies_at: int | None) -> None:
    """Roll up again and again until told to stop."""
    with _connected(job, dies_at) as database:
        rollup = Rollup(database, f"rollup-{job.number}")
        while not job.stop.exists() and _is_wanted():
            insist(lambda: rollup.run(lambda: job.now, budget=BUDGET))
            time.sleep(PAUSE_SECONDS)


def seal(job: Job, dies_at: int | None) -> None:
    """Seal all that is open, again and again until told to stop."""
    with _connected(job, dies_at) as database:
        while not job.stop.exists() and _is_wanted():
            insist(lambda: seal_everything(database, now=job.now))
            time.sleep(PAUSE_SECONDS)


def insist(work: Callable[[], object]) -> None:
    """Do something again for as long as the connection is to blame."""
    while _is_wanted():
        try:
            work()
        except (StorageError, ServerUnreachableError) as error:
            if not is_retryable(error):
                raise
        else:
            return


def _is_wanted() -> bool:
    """Whether the test that started this process is still there."""
    parent = multiprocessing.parent_process()
    return parent is None or parent.is_alive()


@contextmanager
def _connected(job: Job, dies_at: int | None) -> Iterator[Database]:
    series.CHURN_ALLOWANCE = job.scene.script.churn_allowance
    with connected(job.url, dies_at) as database:
        yield database


@contextmanager
def connected(url: str, dies_at: int | None) -> Iterator[Database]:
    """A database of a process that is killed at a step, before or after a statement or around a COMMIT."""
    database = Database.connect(url, application=APPLICATION)
    if dies_at is not None:
        steps = itertools.count()
        for name in ("before_cursor_execute", "after_cursor_execute", "commit"):
            event.listen(database.engine, name, lambda *_: _die() if next(steps) == dies_at else None)
    try:
        yield database
    finally:
        database.dispose()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class Worker:
    """One worker through all of its lives; `deaths`: at which step each of the next lives ends."""

    work: Callable[[Job, int | None], None]
    job: Job
    deaths: list[int]
    lives: int = 0
    process: BaseProcess = field(init=False)

    def __post_init__(self) -> None:
        """Begin the first life."""
        self._live()

    def _live(self) -> None:
        dies_at = self.deaths.pop(0) if self.deaths else None
        self.process = CONTEXT.Process(target=self.work, args=(self.job, dies_at), daemon=True)
        self.process.start()
        self.lives += 1

    def goes_on(self) -> bool:
        """Whether it still works; where it was killed, it is started again."""
        if self.process.is_alive():
            return True
        assert self.process.exitcode in (0, -signal.SIGKILL), self.process.exitcode
        if self.process.exitcode == 0:
            return False
        self._live()
        return True

    def kill(self) -> None:
        """End this life now."""
        self.process.kill()
        self.process.join()
