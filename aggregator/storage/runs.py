"""Runs of the stages, the slots that they claim, and the wakes that workers have read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, Interval, cast, delete, func, insert, literal, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from aggregator.storage import tables

_RUNS = tables.runs


def claim_slot(
    connection: Connection, *, stage: str, subject: str, slot: datetime, node: str, now: datetime, lease: timedelta
) -> int | None:
    """Claim a slot of a stage's job, or take over one whose lease has expired; the run's id, or None for the loser.

    Uses index: runs_slot_key.
    """
    statement = upsert(_RUNS).values(
        stage=stage, subject=subject, slot=slot, node=node, started_at=now, lease_until=now + lease
    )
    statement = statement.on_conflict_do_update(
        index_elements=["stage", "subject", "slot"],
        index_where=_RUNS.c.slot.is_not(None),
        set_={"node": node, "started_at": now, "lease_until": now + lease},
        where=_RUNS.c.finished_at.is_(None) & (_RUNS.c.lease_until < now),
    )
    return connection.execute(statement.returning(_RUNS.c.id)).scalar_one_or_none()


def ran_between(connection: Connection, *, stage: str, since: datetime, until: datetime) -> bool:
    """Whether a claimed run of a stage began in the half-open interval, however it ended.

    Uses index: runs_started_at_idx.
    """
    statement = select(_RUNS.c.id).where(
        _RUNS.c.stage == stage,
        _RUNS.c.lease_until.is_not(None),
        _RUNS.c.started_at >= since,
        _RUNS.c.started_at < until,
    )
    return connection.execute(statement.limit(1)).first() is not None


def begin(connection: Connection, *, stage: str, subject: str, node: str, now: datetime) -> int:
    """Record that a run begins which needs no slot; gives its id, for `finish`."""
    values = {"stage": stage, "subject": subject, "node": node, "started_at": now}
    return int(connection.execute(insert(_RUNS).values(values).returning(_RUNS.c.id)).scalar_one())


def finish(
    connection: Connection, run_id: int, *, outcome: str, rows: int, now: datetime, error: str | None = None
) -> None:
    """Record how a claimed run ended. Uses index: runs_pkey."""
    connection.execute(
        update(_RUNS).where(_RUNS.c.id == run_id).values(finished_at=now, outcome=outcome, rows=rows, error=error)
    )


@dataclass(frozen=True)
class Reach:
    """The buckets that a run of the stage rollup took off the ledger: the first and the last one's start."""

    first_bucket: datetime
    last_bucket: datetime
    backfill: bool


def record(
    connection: Connection,
    *,
    stage: str,
    subject: str,
    node: str,
    started_at: datetime,
    now: datetime,
    rows: int,
    reach: Reach | None = None,
) -> None:
    """Record a run that needed no slot, in the transaction that did its work."""
    values: dict[str, object] = {"stage": stage, "subject": subject, "node": node, "started_at": started_at}
    if reach is not None:
        values |= asdict(reach)
    connection.execute(insert(_RUNS).values(finished_at=now, outcome="ok", rows=rows, **values))


def forget_before(connection: Connection, instant: datetime) -> int:
    """Delete runs that started before an instant. Uses index: runs_started_at_idx."""
    return connection.execute(delete(_RUNS).where(_RUNS.c.started_at < instant)).rowcount


def woken(connection: Connection, job: str, *, slot: datetime, interval: timedelta, now: datetime) -> None:
    """Record that a job's wake was read, and count the slots since the last one for which none came.

    Uses index: wakes_pkey.
    """
    table = tables.wakes
    statement = upsert(table).values(job=job, slot=slot, woken_at=now)
    gap = func.extract("epoch", cast(literal(slot) - table.c.slot, Interval)) / interval.total_seconds()
    statement = statement.on_conflict_do_update(
        index_elements=["job"],
        set_={
            "slot": func.greatest(table.c.slot, slot),
            "woken_at": now,
            "slots_missed": table.c.slots_missed + func.greatest(func.round(gap) - 1, 0),
        },
    )
    connection.execute(statement)
