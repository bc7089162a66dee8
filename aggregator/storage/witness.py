"""What a process remembers is only as good as the database that it was read from: a row that was committed with it.

A restore of an older dump, or a standby that lacks the last commits, need not cut a connection. A process would go on
with places in frame maps and blocks that this database has given, or will give, to other series. So what it comes to
remember is committed together with a row of its own, and before it uses it, it looks whether the row is still there.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, insert, select, update

from aggregator.storage import tables

_RUNS = tables.runs
#: The stage under which the rows stand among the runs; their subject is random, `rows` counts how often it was renewed.
STAGE = "remember"


@dataclass(frozen=True)
class Witness:
    """A row that is there while the database is one that has all that its process remembers."""

    run_id: int
    token: str
    times: int


def renew(connection: Connection, witness: Witness | None, *, node: str, now: datetime) -> Witness:
    """The witness of what this transaction commits, and of all that the one before it stands for, which must hold.

    Uses index: runs_pkey.
    """
    if witness is not None:
        renewed = (
            update(_RUNS)
            .where(_RUNS.c.id == witness.run_id, _RUNS.c.subject == witness.token, _RUNS.c.rows == witness.times)
            .values(rows=_RUNS.c.rows + 1, started_at=now, finished_at=now)
        )
        times = connection.execute(renewed.returning(_RUNS.c.rows)).scalar_one_or_none()
        if times is not None:
            return Witness(witness.run_id, witness.token, int(times))
    token = uuid.uuid4().hex
    values = {"stage": STAGE, "subject": token, "node": node, "started_at": now, "finished_at": now, "rows": 1}
    run_id = connection.execute(insert(_RUNS).values(outcome="ok", **values).returning(_RUNS.c.id)).scalar_one()
    return Witness(int(run_id), token, 1)


def holds(connection: Connection, witness: Witness | None) -> bool:
    """Whether what is remembered may be used in this transaction; True where nothing is. Uses index: runs_pkey."""
    if witness is None:
        return True
    there = select(_RUNS.c.id).where(
        _RUNS.c.id == witness.run_id, _RUNS.c.subject == witness.token, _RUNS.c.rows == witness.times
    )
    return connection.execute(there).first() is not None
