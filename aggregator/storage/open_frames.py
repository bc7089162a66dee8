"""Open frames, as rows of `sample_frame`: read, found by target and instant, written and deleted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import Connection, Select, any_, delete, literal, select, tuple_
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import DateTime

from aggregator.storage import tables
from aggregator.storage.copying import copy_in, copy_out, from_wire_instant, scalars
from aggregator.storage.frame_columns import FrameColumns, Integers
from aggregator.storage.frame_rows import READ, WRITTEN, decode_frames, encode_frames

_TABLE = tables.sample_frame
_TARGET = 'aggregator."sample_frame"'
#: So many frames are asked for by name; of more, first their instants.
_MOST_NAMED = 500
_SELECT = select(*(_TABLE.c[name] for name in READ))
_STANDING_NAMES = ("target_id", "at")
_STANDING = select(*(_TABLE.c[name] for name in _STANDING_NAMES))
_RECEIVED_NAMES = ("target_id", "at", "received_at")
_RECEIVED = select(*(_TABLE.c[name] for name in _RECEIVED_NAMES))


@dataclass(frozen=True)
class Arrived:
    """Frames, and when each was received, as on the wire; int64 of shape (n,)."""

    frames: FrameColumns
    received_at: Integers

    def __len__(self) -> int:
        return len(self.frames)

    @classmethod
    def joined(cls, parts: Sequence[Arrived]) -> Arrived:
        """The frames of all parts, which differ in target and instant, in their order."""
        if len(parts) == 1:
            return parts[0]
        parts = [part for part in parts if len(part)]
        frames = FrameColumns.joined([part.frames for part in parts])
        received_at = np.zeros(len(frames), dtype=np.int64)
        for part in parts:
            received_at[frames.find(part.frames)] = part.received_at
        return cls(frames, received_at)


def asked(target_ids: Sequence[int], since: datetime, until: datetime) -> Select[Any]:
    """The query for all that `decode_frames` reads of targets in the half-open interval."""
    return _within(_SELECT, target_ids, since, until)


def _within(query: Select[Any], target_ids: Sequence[int], since: datetime, until: datetime) -> Select[Any]:
    return query.where(_TABLE.c.target_id.in_(target_ids), _TABLE.c.at >= since, _TABLE.c.at < until)


def read_open(connection: Connection, *, target_ids: Sequence[int], since: datetime, until: datetime) -> FrameColumns:
    """The open frames of the targets in the half-open interval. Uses index: sample_frame_pkey."""
    return _read(connection, asked(target_ids, since, until))


def read_arrived(connection: Connection, *, target_ids: Sequence[int], since: datetime, until: datetime) -> Arrived:
    """As `read_open`, and when they were received; the caller holds the targets' locks.

    Uses index: sample_frame_pkey.
    """
    frames = read_open(connection, target_ids=target_ids, since=since, until=until)
    data = copy_out(connection, _within(_RECEIVED, target_ids, since, until))
    columns = scalars(data, _TABLE, _RECEIVED_NAMES).columns
    order = np.lexsort((columns["at"], columns["target_id"]))
    return Arrived(frames, columns["received_at"][order])


def write_open(connection: Connection, parts: Sequence[Arrived]) -> None:
    """Store frames at whose targets and instants none stands."""
    data = [one for part in parts for one in encode_frames(part.frames, part.received_at)]
    if data:
        copy_in(connection, _TARGET, WRITTEN, data)


def find_open(connection: Connection, frames: FrameColumns) -> FrameColumns:
    """The open frames at the targets and instants of `frames`, and perhaps others. Uses index: sample_frame_pkey."""
    if not len(frames):
        return FrameColumns.nothing()
    if len(frames) <= _MOST_NAMED:
        return _read(connection, _named(_between(_SELECT, frames), frames))
    # Nearly always none of many is there, or all are: a look at the instants tells.
    standing = scalars(copy_out(connection, _between(_STANDING, frames)), _TABLE, _STANDING_NAMES).columns
    none = np.zeros(len(standing["at"]), dtype=np.int64)
    found = FrameColumns(standing["target_id"], none, standing["at"], none, none[:0], np.zeros(0)).in_order()
    again = frames.only(found.find(frames) >= 0)
    if 2 * len(again) >= len(found):
        return _read(connection, _between(_SELECT, again)) if len(again) else again
    chunks = [np.arange(begin, min(begin + _MOST_NAMED, len(again))) for begin in range(0, len(again), _MOST_NAMED)]
    lines = np.arange(len(again))
    parts = [again.only(np.isin(lines, chunk)) for chunk in chunks]
    return FrameColumns.joined([_read(connection, _named(_between(_SELECT, part), part)) for part in parts])


def _between(query: Select[Any], frames: FrameColumns) -> Select[Any]:
    """All that is stored of the targets from the first to the last instant: partitions are pruned by a range."""
    since, until = from_wire_instant(int(frames.at.min())), from_wire_instant(int(frames.at.max()))
    target_ids = np.unique(frames.target_id).tolist()
    return query.where(_TABLE.c.target_id.in_(target_ids), _TABLE.c.at.between(since, until))


def _named(query: Select[Any], frames: FrameColumns) -> Select[Any]:
    """Only what is stored of these very targets and instants."""
    keys = zip(frames.target_id.tolist(), frames.at.tolist(), strict=True)
    return query.where(
        tuple_(_TABLE.c.target_id, _TABLE.c.at).in_([(target_id, from_wire_instant(at)) for target_id, at in keys])
    )


def _read(connection: Connection, query: Select[Any]) -> FrameColumns:
    return decode_frames(copy_out(connection, query))


def delete_open(connection: Connection, frames: FrameColumns) -> None:
    """Take out frames that are about to be written anew: an UPDATE of whole rows costs the same, and goes one by one.

    Uses index: sample_frame_pkey.
    """
    for target_id in np.unique(frames.target_id).tolist():
        at = frames.at[frames.target_id == target_id]
        since, until = (from_wire_instant(int(edge)) for edge in (at.min(), at.max()))
        instants = literal([from_wire_instant(one) for one in at.tolist()], ARRAY(DateTime(timezone=True)))
        connection.execute(
            delete(_TABLE).where(
                _TABLE.c.target_id == target_id, _TABLE.c.at.between(since, until), _TABLE.c.at == any_(instants)
            )
        )


def delete_between(connection: Connection, *, target_ids: Sequence[int], since: datetime, until: datetime) -> int:
    """Delete all open frames of targets in the half-open interval; gives how many. Uses index: sample_frame_pkey."""
    where = _TABLE.c.target_id.in_(target_ids), _TABLE.c.at >= since, _TABLE.c.at < until
    return connection.execute(delete(_TABLE).where(*where)).rowcount
