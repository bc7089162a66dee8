"""Counting that a job's process was lost, and setting the job aside where it was once too often (docs/adr/0018)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import Connection, Select, all_, func, literal, select, update
from sqlalchemy.dialects.postgresql import insert

from aggregator.storage import tables
from aggregator.storage.claims import GivenUp
from aggregator.storage.quarantine import MOST_LOSSES, TASKS, Job, Losses, as_losses, losses_of, of_job, pauses

#: More rows than any installation has of jobs that kill: whatever the broker is told, the table stays small.
MOST_ROWS = 1_000
WORKER_LOST = "its worker was lost"

_TABLE = tables.job_losses


def record_loss(connection: Connection, job: Job, *, reason: str, at: datetime, now: datetime) -> Losses | None:
    """Count that a job's process was lost at an instant (UTC), and set the job aside where it was once too often.

    None where there is no such job: messages may come from anywhere. Uses index: job_losses_pkey.
    """
    if not _exists(connection, job):
        return None
    statement = insert(_TABLE).values(
        task=job.task, subject=job.subject, losses=1, reason=reason, first_lost_at=at, last_lost_at=at
    )
    statement = statement.on_conflict_do_update(
        index_elements=["task", "subject"],
        set_={
            "losses": _TABLE.c.losses + 1,
            "reason": reason,
            "last_lost_at": func.greatest(_TABLE.c.last_lost_at, at),
        },
    )
    found = as_losses(connection.execute(statement.returning(*_TABLE.c)).one())
    return found if found.losses < MOST_LOSSES else _set_aside(connection, found, now=now)


def _set_aside(connection: Connection, found: Losses, *, now: datetime) -> Losses:
    statement = (
        update(_TABLE)
        .where(of_job(found.job))
        .values(
            quarantined_at=func.coalesce(_TABLE.c.quarantined_at, now),
            retry_at=now + pauses(found.job).after(found.losses),
        )
    )
    return as_losses(connection.execute(statement.returning(*_TABLE.c)).one())


def record_given_up(connection: Connection, lost: Iterable[GivenUp], *, now: datetime) -> list[Losses]:
    """Count collections that were lost together with their whole worker: nobody was left to report them.

    Left out are those of a shard that has had a success since, and those before a loss that was reported.
    """
    counted = []
    for one in sorted(lost, key=lambda one: one.started_at):
        name = connection.execute(_unsuccessful_source(one)).scalar()
        if one.by_hand or name is None:
            continue
        job = Job("collect", f"{name}:{one.shard_id}")
        known = losses_of(connection, job)
        if known is None or known.last_lost_at < one.started_at:
            found = record_loss(connection, job, reason=WORKER_LOST, at=one.started_at, now=now)
            counted += [found] if found is not None else []
    return counted


def _unsuccessful_source(lost: GivenUp) -> Select[tuple[str]]:
    """The source of a shard that has had no success since. Uses index: collections_pkey."""
    sources, shards, done = tables.sources, tables.shards, tables.collections
    later = select(literal(1)).where(
        done.c.shard_id == lost.shard_id,
        done.c.slot > lost.slot,
        done.c.finished_at.is_not(None),
        literal(0) != all_(done.c.outcome),
    )
    return (
        select(sources.c.name)
        .join(shards, shards.c.source_id == sources.c.id)
        .where(shards.c.id == lost.shard_id, ~later.exists())
    )


def _exists(connection: Connection, job: Job) -> bool:
    """Whether there is such a job, and room for it in the table."""
    if job.task not in TASKS or (job.subject and not _has_subject(connection, job)):
        return False
    rows = select(func.count()).select_from(_TABLE)
    return losses_of(connection, job) is not None or connection.execute(rows).scalar_one() < MOST_ROWS


def _has_subject(connection: Connection, job: Job) -> bool:
    sources, shards, summaries = tables.sources, tables.shards, tables.summaries
    named = {
        "wake": select(sources.c.name),
        "collect": select(func.concat(sources.c.name, ":", shards.c.id)).join(
            shards, shards.c.source_id == sources.c.id
        ),
        "rollup": select(func.concat(shards.c.id)),
        "summarize": select(summaries.c.name),
    }.get(job.task)
    if named is None:
        return False
    subjects = named.subquery()
    one = select(literal(1)).where(subjects.c[0] == job.subject)
    return connection.execute(one.limit(1)).scalar() is not None
