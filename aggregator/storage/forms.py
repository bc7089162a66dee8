"""The two forms in which rollups and samples are stored: open as they come, and sealed when their time has closed.

A rollup of a block in a bucket, or a frame, is in one form at any instant: changing it is one transaction. So one
statement, which reads both forms of one snapshot, finds it once. Who needs several statements for that holds the
shard's lock, or a snapshot, or calls `hold`.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from sqlalchemy import Connection, func, select, text
from sqlalchemy.dialects.postgresql import insert

from aggregator.storage import tables

#: What stands for samples where tiers have their ids.
SAMPLES_ID = 0

#: The first version that reads what is sealed (major, minor).
SINCE_VERSION = (0, 2)
#: Whoever was seen so lately may still run: six announcements.
NODE_IS_LIVE = timedelta(seconds=90)
_VERSION = re.compile(r"(\d+)\.(\d+)")

_HOLD = text("SELECT pg_advisory_xact_lock_shared(hashtext('aggregator.forms'))")
_CHANGING = text("SELECT pg_advisory_xact_lock(hashtext('aggregator.forms'))")


def hold(connection: Connection) -> None:
    """Let nobody commit a change of form until this transaction ends."""
    connection.execute(_HOLD)


def changing(connection: Connection) -> None:
    """Wait for those who hold the forms; the last statement before the commit that changes one."""
    connection.execute(_CHANGING)


def sealed_until(connection: Connection, tier_id: int) -> datetime | None:
    """From when on (UTC) nothing of a tier is sealed; None: nothing is at all. Uses index: sealings_pkey."""
    table = tables.sealings
    statement = select(func.max(table.c.until)).where(table.c.tier_id == tier_id)
    until: datetime | None = connection.execute(statement).scalar_one()
    return until


def may_be_sealed(connection: Connection, tier_id: int, *, since: datetime) -> bool:
    """Whether anything of a tier from an instant on may be sealed."""
    until = sealed_until(connection, tier_id)
    return until is not None and since < until


def note_sealed(connection: Connection, tier_id: int, shard_id: int, *, until: datetime, now: datetime) -> None:
    """Record, in the transaction that seals it, that a shard's rows up to an instant may be sealed."""
    table = tables.sealings
    values = {"until": until, "sealed_at": now}
    statement = insert(table).values(tier_id=tier_id, shard_id=shard_id, **values)
    newest = {name: func.greatest(table.c[name], value) for name, value in values.items()}
    connection.execute(statement.on_conflict_do_update(index_elements=["tier_id", "shard_id"], set_=newest))


def nodes_that_read_only_open(connection: Connection, *, now: datetime) -> list[str]:
    """The live nodes of versions that would take what is sealed for missing: nothing may be sealed beside them.

    A version that cannot be understood counts as one of them.
    """
    nodes = tables.nodes
    statement = select(nodes.c.name, nodes.c.version).where(nodes.c.last_seen >= now - NODE_IS_LIVE)
    return [
        name for name, version in connection.execute(statement.order_by(nodes.c.name)) if not _reads_sealed(version)
    ]


def _reads_sealed(version: str) -> bool:
    found = _VERSION.match(version)
    return found is not None and (int(found[1]), int(found[2])) >= SINCE_VERSION
