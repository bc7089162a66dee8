"""Poison jobs: how often in a row a job's process was lost, and until when it is set aside (docs/adr/0018)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, delete, or_, select, update

from aggregator.storage import tables

#: A job that loses its process so often without a success in between is set aside.
MOST_LOSSES = 3
#: The task that a job is a part of: these are all that can be set aside.
TASKS = ("wake", "collect", "rollup", "summarize", "maintain", "verify")

#: Any pause has become its longest by then.
_MOST_DOUBLINGS = 20

_TABLE = tables.job_losses


#: After so long a job that was to be tried again is none any more: its source or summary was taken out.
FORGET_SET_ASIDE = timedelta(days=2)
FORGET_COUNTED = timedelta(days=7)


@dataclass(frozen=True)
class Job:
    """What is set aside: a task and what it works on; `subject` is empty where that is everything."""

    task: str
    subject: str = ""

    def __str__(self) -> str:
        return f"{self.task}:{self.subject}" if self.subject else self.task


@dataclass(frozen=True)
class Pauses:
    """How long a job is left alone: at first, and at the most; each further loss doubles it."""

    first: timedelta
    longest: timedelta

    def after(self, losses: int) -> timedelta:
        """The pause after so many losses in a row."""
        doublings = min(max(losses - MOST_LOSSES, 0), _MOST_DOUBLINGS)
        return min(self.first * (1 << doublings), self.longest)


#: A single source, summary or shard can wait. What serves everything is left alone for as short as does no harm.
LONGEST_PAUSE = timedelta(hours=1)
_OF_ONE = Pauses(timedelta(minutes=5), LONGEST_PAUSE)
_OF_ALL = Pauses(timedelta(seconds=30), timedelta(minutes=5))


def pauses(job: Job) -> Pauses:
    """How long a job is left alone."""
    return _OF_ONE if job.subject else _OF_ALL


@dataclass(frozen=True)
class Losses:
    """The losses of a job since its last success; instants are UTC. `quarantined_at` None: it is not set aside."""

    job: Job
    losses: int
    reason: str
    first_lost_at: datetime
    last_lost_at: datetime
    quarantined_at: datetime | None
    retry_at: datetime | None

    def is_refused(self, *, now: datetime) -> bool:
        """Whether it is set aside and not to be tried yet."""
        return self.retry_at is not None and now < self.retry_at


def losses_of(connection: Connection, job: Job) -> Losses | None:
    """The losses of a job; None for one that has none, which is nearly every. Uses index: job_losses_pkey."""
    row = connection.execute(select(_TABLE).where(of_job(job))).one_or_none()
    return None if row is None else as_losses(row)


def all_losses(connection: Connection, *, task: str | None = None) -> list[Losses]:
    """The losses of all jobs, or of a task's, those of longest standing first. Reads the table whole: it is small."""
    statement = select(_TABLE).order_by(_TABLE.c.first_lost_at, _TABLE.c.task, _TABLE.c.subject)
    if task is not None:
        statement = statement.where(_TABLE.c.task == task)
    return [as_losses(row) for row in connection.execute(statement)]


def quarantined(connection: Connection) -> list[Losses]:
    """The jobs that are set aside, those of longest standing first."""
    return [found for found in all_losses(connection) if found.quarantined_at is not None]


def take_try(connection: Connection, found: Losses, *, now: datetime) -> bool:
    """Take the one try that a job has when its pause is over; False where somebody else took it.

    Until the try has ended in a success nobody else tries, for the next pause. Uses index: job_losses_pkey.
    """
    statement = (
        update(_TABLE)
        .where(of_job(found.job), _TABLE.c.retry_at == found.retry_at)
        .values(retry_at=now + pauses(found.job).after(found.losses + 1))
    )
    return connection.execute(statement).rowcount == 1


def give_back_try(connection: Connection, job: Job, *, now: datetime) -> None:
    """Let a job be tried again at once: the try found nothing to do. Uses index: job_losses_pkey."""
    connection.execute(update(_TABLE).where(of_job(job), _TABLE.c.retry_at.is_not(None)).values(retry_at=now))


def forget(connection: Connection, job: Job) -> bool:
    """Forget the losses of a job, after a success or by hand; whether there were any. Uses index: job_losses_pkey."""
    return connection.execute(delete(_TABLE).where(of_job(job))).rowcount == 1


def forget_gone(connection: Connection, *, now: datetime) -> int:
    """Forget jobs that nobody works on any more: one that is configured is tried soon after its pause; gives how many.

    What is only counted is kept for longer, for some jobs run once a day. Reads the table whole: it is small.
    """
    is_gone = or_(
        _TABLE.c.retry_at < now - FORGET_SET_ASIDE,
        and_(_TABLE.c.retry_at.is_(None), _TABLE.c.last_lost_at < now - FORGET_COUNTED),
    )
    return connection.execute(delete(_TABLE).where(is_gone)).rowcount


def of_job(job: Job) -> ColumnElement[bool]:
    """The condition that a row is this job's."""
    return and_(_TABLE.c.task == job.task, _TABLE.c.subject == job.subject)


def as_losses(row: Row[Any]) -> Losses:
    """A whole row of the table."""
    return Losses(
        Job(row.task, row.subject),
        row.losses,
        row.reason,
        row.first_lost_at,
        row.last_lost_at,
        row.quarantined_at,
        row.retry_at,
    )
