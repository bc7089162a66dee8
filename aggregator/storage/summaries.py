"""Summaries as they are published: what is due, what was computed, and the last good value where that failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from pydantic import ValidationError
from sqlalchemy import Connection, Integer, Row, cast, func, literal, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import JSONB

from aggregator.config.model import Summary
from aggregator.rollups.buckets import floor_to
from aggregator.storage import runs, tables
from aggregator.storage.summary_values import Computed

log = structlog.get_logger(__name__)

STAGE = "summarize"
#: A run that began longer ago is over, whatever its row says: no lease is that long.
LONGEST_RUN = timedelta(minutes=15)


@dataclass(frozen=True)
class Published:
    """An active summary: its definition, and which version of its document is the newest (0: none)."""

    summary: Summary
    definition: dict[str, Any]
    version: int
    computed_at: datetime | None
    asked_at: datetime | None

    @property
    def name(self) -> str:
        """The summary's name."""
        return self.summary.name


@dataclass(frozen=True)
class Due:
    """A slot of a summary that nobody has claimed; a message about it is of use for `expires`."""

    name: str
    slot: datetime
    expires: timedelta


def published_summaries(connection: Connection) -> list[Published]:
    """The active summaries by name; one that this version of the code cannot read is left out, and logged."""
    stored = tables.summaries
    columns = (stored.c[name] for name in ("name", "definition", "version", "computed_at", "asked_at"))
    rows = connection.execute(select(*columns).where(stored.c.active).order_by(stored.c.name))
    return [found for row in rows if (found := _published(row)) is not None]


def _published(row: Row[Any]) -> Published | None:
    try:
        summary = Summary.model_validate(row.definition)
    except ValidationError as error:
        log.warning("summary_not_understood", summary=row.name, faults=error.error_count())
        return None
    return Published(summary, row.definition, row.version, row.computed_at, row.asked_at)


def withdrawn_summaries(connection: Connection) -> dict[str, int]:
    """The summaries that the configuration no longer has, with their last version."""
    stored = tables.summaries
    return dict(connection.execute(select(stored.c.name, stored.c.version).where(~stored.c.active)).all())


def shortest_refresh(connection: Connection) -> timedelta | None:
    """How often the most eager summary is refreshed; None where there is none."""
    stored = tables.summaries
    seconds = connection.execute(select(func.min(stored.c.refresh_seconds)).where(stored.c.active)).scalar_one()
    return None if seconds is None else timedelta(seconds=seconds)


def due_summaries(connection: Connection, published: Sequence[Published], *, now: datetime) -> list[Due]:
    """At most one slot of each summary that is neither done nor being done.

    Uses indexes: runs_slot_key, runs_started_at_idx.
    """
    slots = [(one, slot) for one in published for slot in _slots(one, now) if not _is_done(slot, one.computed_at)]
    c = tables.runs.c
    own_slot = tuple_(c.subject, c.slot).in_([(one.name, slot) for one, slot in slots])
    taken = connection.execute(
        select(c.subject, c.slot).where(
            c.stage == STAGE, own_slot, or_(c.finished_at.is_not(None), c.lease_until >= now)
        )
    )
    not_due = {(row.subject, row.slot) for row in taken}
    running = set(connection.execute(_running(now)).scalars())
    free = [(one, slot) for one, slot in slots if (one.name, slot) not in not_due and one.name not in running]
    return list({one.name: Due(one.name, slot, one.summary.refresh) for one, slot in reversed(free)}.values())


def _slots(published: Published, now: datetime) -> list[datetime]:
    """The running slot, and the instant at which somebody asked for more, oldest wish first."""
    asked = [published.asked_at] if published.asked_at is not None else []
    return [floor_to(now, published.summary.refresh), *asked]


def _running(now: datetime) -> Any:  # noqa: ANN401 - a statement
    c = tables.runs.c
    return select(c.subject).where(
        c.stage == STAGE, c.finished_at.is_(None), c.lease_until >= now, c.started_at > now - LONGEST_RUN
    )


def claim(
    connection: Connection, name: str, *, slot: datetime, node: str, now: datetime, lease: timedelta
) -> int | None:
    """Claim a slot of a summary; the run's id, or None where it is done, or another slot of the summary is being done.

    Uses indexes: summaries_pkey, runs_subject_started_at_idx, runs_slot_key.
    """
    stored = tables.summaries.c
    # One at a time decides: two slots of a summary would else be claimed side by side.
    locked = select(stored.computed_at).where(stored.name == name, stored.active).with_for_update(key_share=True)
    row = connection.execute(locked).one_or_none()
    if row is None or _is_done(slot, row.computed_at):
        return None
    if connection.execute(_running(now).where(tables.runs.c.subject == name).limit(1)).first() is not None:
        return None
    return runs.claim_slot(connection, stage=STAGE, subject=name, slot=slot, node=node, now=now, lease=lease)


def _is_done(slot: datetime, computed_at: datetime | None) -> bool:
    """A slot wants an answer that is no older than itself, whoever has computed it."""
    return computed_at is not None and computed_at >= slot


def ask_for(connection: Connection, names: Sequence[str], *, now: datetime) -> None:
    """Have summaries without a value refreshed beyond their slots. Uses index: summaries_pkey."""
    stored = tables.summaries
    connection.execute(
        update(stored).where(stored.c.name.in_(names), stored.c.computed_at.is_(None)).values(asked_at=now)
    )


def store(connection: Connection, published: Published, computed: Computed, *, now: datetime) -> bool:
    """Keep a summary's answer of `now`; False where a newer one or another definition has come meanwhile.

    Uses index: summaries_pkey.
    """
    stored = tables.summaries
    statement = (
        update(stored)
        .where(
            stored.c.name == published.name,
            stored.c.active,
            stored.c.definition == cast(literal(published.definition, JSONB), JSONB),
            or_(stored.c.computed_at.is_(None), stored.c.computed_at <= now),
        )
        .values(
            value=computed.rows,
            as_of=computed.as_of,
            computed_at=now,
            tier=computed.tier,
            completeness=computed.completeness,
            is_final=computed.is_final,
            version=stored.c.version + 1,
            last_error=None,
            last_error_at=None,
            asked_at=None,
        )
        .returning(stored.c.version)
    )
    return connection.execute(statement).scalar_one_or_none() is not None


def store_error(connection: Connection, name: str, error: str, *, now: datetime) -> None:
    """Record that a refresh failed; the last good value stays. Uses index: summaries_pkey."""
    stored = tables.summaries
    is_news = stored.c.last_error.is_distinct_from(error)
    connection.execute(
        update(stored)
        .where(stored.c.name == name, or_(stored.c.computed_at.is_(None), stored.c.computed_at <= now))
        .values(last_error=error, last_error_at=now, version=stored.c.version + cast(is_news, Integer))
    )
