"""Whether a job may run: one that keeps losing its process is left alone for a while (docs/adr/0018).

Nearly every job has no losses: then all that this costs is one row that is not found by its primary key.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

import structlog

from aggregator import telemetry
from aggregator.errors import QuarantinedError, UsageError
from aggregator.storage import quarantine
from aggregator.storage.engine import Connection, Database
from aggregator.storage.losses import record_loss
from aggregator.storage.quarantine import MOST_LOSSES, Job, Losses
from aggregator.tasks import progress
from aggregator.tasks.context import context

log = structlog.get_logger(__name__)

#: Our workers give shorter ones; a message may come from anywhere.
_LONGEST_REASON = 60
_REPORTED = (*quarantine.TASKS, "announce")


def run(named: tuple[str, str] | None, work: Callable[[], Any]) -> Any:  # noqa: ANN401 - a task gives anything
    """Do the work of a job (its task and subject; None: of something that is never set aside).

    Raises QuarantinedError where the job is set aside.
    A result other than None is a success, after which its losses are forgotten: the work was done and the process
    lives. None means that there was nothing to do for this run, which proves nothing.
    """
    if named is None:
        return work()
    here, job = context(), Job(*named)
    here.require_right_clock()  # a pause that a wrong clock takes would last until that time comes
    admission = here.database.run(partial(admit, job=job, now=here.clock()))
    if admission is None:
        raise QuarantinedError(f"{job} keeps losing its process and is set aside for a while")
    result = work()
    if admission.losses:
        admission.end(here.database, is_success=result is not None, now=here.clock())
    return result


@dataclass(frozen=True)
class Admission:
    """A job that may run; `losses`: so many in a row were counted before."""

    job: Job
    losses: int = 0
    #: It took the try that a job which is set aside has after its pause.
    is_try: bool = False

    def end(self, database: Database, *, is_success: bool, now: datetime) -> None:
        """Forget the losses after a success; where nothing was done, the next message may try."""
        if not is_success:
            if self.is_try:
                database.run(partial(quarantine.give_back_try, job=self.job, now=now))
        elif database.run(partial(quarantine.forget, job=self.job)) and self.losses >= MOST_LOSSES:
            log.info("job_recovered", job=str(self.job), losses=self.losses)


def admit(connection: Connection, job: Job, *, now: datetime) -> Admission | None:
    """Whether a job may run now; None: it is set aside."""
    found = quarantine.losses_of(connection, job)
    return Admission(job) if found is None else _admit(connection, found, now=now)


def _admit(connection: Connection, found: Losses, *, now: datetime) -> Admission | None:
    if found.retry_at is not None and (
        found.is_refused(now=now) or not quarantine.take_try(connection, found, now=now)
    ):
        return None
    return Admission(found.job, found.losses, is_try=found.retry_at is not None)


def report(job: Job | None, *, task: str, reason: str, at: datetime) -> None:
    """Count a process that was lost, and the job with it; `at` is UTC.

    Raises UsageError for what is no report of ours: a message may come from anywhere.
    """
    if task not in _REPORTED or len(reason) > _LONGEST_REASON:
        raise UsageError(f"{task!r} was lost because of {reason!r}: no worker of ours says so")
    telemetry.count("task_runs_total", task=task, outcome="lost")
    if job is None:
        return
    here = context()
    here.require_right_clock()
    losses = here.database.run(partial(record_loss, job=job, reason=reason, at=at, now=here.clock()))
    if losses is not None and losses.retry_at is not None:
        log.error(
            "job_quarantined", job=str(job), losses=losses.losses, reason=reason, retry_at=losses.retry_at.isoformat()
        )


@dataclass
class ShardWatch:
    """Looks after the shards of one run of the stage rollup: those that are set aside do not stop the others."""

    database: Database
    clock: Callable[[], datetime]
    #: Shards with losses, as they were when the run began: one small table, read once for each run.
    suspects: frozenset[str]
    admitted: dict[str, Admission] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, database: Database, clock: Callable[[], datetime]) -> ShardWatch:
        """The watch of a run that begins."""
        found = database.run(partial(quarantine.all_losses, task="rollup"))
        return cls(database, clock, frozenset(one.job.subject for one in found if one.job.subject))

    def begins(self, shard_id: int) -> bool:
        """Note the shard that is rolled up from now on; False where it is to be left out."""
        subject = str(shard_id)
        if subject in self.suspects and subject not in self.admitted:
            job = Job("rollup", subject)
            admission = self.database.run(partial(admit, job=job, now=self.clock()))
            if admission is None:
                return False
            self.admitted[subject] = admission
        progress.note(shard_id)
        structlog.contextvars.bind_contextvars(shard=shard_id)
        return True

    def rolled_up(self, shard_id: int) -> None:
        """A transaction of a shard was committed."""
        self.done.add(str(shard_id))

    def finish(self) -> None:
        """The run is over, and the process lives: what it worked on does not kill."""
        progress.nothing()
        structlog.contextvars.unbind_contextvars("shard")
        for subject, admission in self.admitted.items():
            admission.end(self.database, is_success=subject in self.done, now=self.clock())
