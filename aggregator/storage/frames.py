"""Sample frames: one row holds all values of a target at one instant, or only those that it has."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, Select, any_, delete, literal, select, text, tuple_
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import DateTime

from aggregator.storage import tables
from aggregator.storage.copying import (
    copy_in,
    copy_out,
    from_wire_instant,
    scalars,
    wire_instants,
)
from aggregator.storage.frame_columns import FrameColumns, Integers, merge
from aggregator.storage.frame_rows import READ, WRITTEN, decode_frames, decode_rows, encode_frames
from aggregator.storage.series import append_to_map, maps_of

_TABLE = tables.sample_frame
_TARGET = 'aggregator."sample_frame"'
#: So many frames are asked for by name; of more, first their instants.
_MOST_NAMED = 500


@dataclass(frozen=True)
class Frame:
    """All values of a target at one instant: float64 in the order of its frame map, NaN where there is no sample.

    With `places` (int64, from 0) it is sparse: `values` are those of these places only. `dense` is without.
    """

    target_id: int
    map_id: int
    at: datetime
    values: npt.NDArray[np.float64]
    places: Integers | None = None

    @property
    def length(self) -> int:
        """How many series its map has at the least."""
        return len(self.values) if self.places is None else int(self.places.max(initial=-1)) + 1

    def pick(self, by_place: Integers) -> Integers:
        """What belongs to each of `values`, from what belongs to each place of the frame map."""
        return by_place[: len(self.values)] if self.places is None else by_place[self.places]

    def dense(self) -> Frame:
        """The frame with a value for every place up to its last sample."""
        if self.places is None:
            return self
        values = np.full(self.length, np.nan)
        values[self.places] = self.values
        return Frame(self.target_id, self.map_id, self.at, values)


@dataclass(frozen=True)
class Written:
    """What writing did, and how many samples were `added` (were not there) or had another value than a stored one.

    `changed`: the frames that are others now than before. `differing`: by target.
    """

    changed: FrameColumns
    added: int
    differing: dict[int, int]


_HOLD = text("LOCK TABLE ONLY aggregator.sample_frame IN ROW EXCLUSIVE MODE")


def hold_partitions(connection: Connection) -> None:
    """Let no partition of samples be dropped until this transaction ends; what is read of them next stays true.

    Every writer of frames does this first, and reads `retained` in a later statement.
    """
    connection.execute(_HOLD)


def lock_targets(connection: Connection, target_ids: Iterable[int]) -> None:
    """Lock targets in the order of their ids, so that two writers never wait for each other.

    Uses index: targets_pkey.
    """
    statement = select(tables.targets.c.id).where(tables.targets.c.id.in_(sorted(target_ids)))
    connection.execute(statement.order_by(tables.targets.c.id).with_for_update(key_share=True))


def columns_of(frames: Sequence[Frame]) -> FrameColumns:
    """Frames that differ in target and instant, as columns; those without any sample are left out."""
    parts = []
    for frame in frames:
        (place,) = np.nonzero(~np.isnan(frame.values))
        if len(place):
            one = np.ones(1, dtype=np.int64)
            at = wire_instants([frame.at])
            parts.append(
                FrameColumns(
                    one * frame.target_id, one * frame.map_id, at, one * len(place), place, frame.values[place]
                )
            )
    return FrameColumns.joined(parts)


def write_frames(connection: Connection, frames: Sequence[Frame], *, received_at: datetime) -> Written:
    """Store frames that differ in (target, instant), as `write_columns` does."""
    return write_columns(connection, columns_of(frames), received_at=received_at)


def write_columns(connection: Connection, frames: FrameColumns, *, received_at: datetime) -> Written:
    """Store frames; where one stands at the same target and instant, the two are merged, the new sample first.

    A frame that changes has arrived anew. The caller holds the partitions, and the targets' locks.
    """
    stored = _stored(connection, frames)
    line = stored.find(frames)
    fresh = frames.only(line < 0)
    again = frames.only(line >= 0)
    merged = merge(_in_order_of(connection, stored.only(_is_in(line, len(stored))), again), again)
    changed = merged.frames.only(merged.changed)
    _delete(connection, changed)
    parts = encode_frames(fresh, received_at=received_at) + encode_frames(changed, received_at=received_at)
    if parts:
        copy_in(connection, _TARGET, WRITTEN, parts)
    differing: dict[int, int] = {}
    for target_id in np.unique(again.target_id[merged.differing > 0]):
        differing[int(target_id)] = int(merged.differing[again.target_id == target_id].sum())
    added = int(fresh.size.sum() + merged.added.sum())
    return Written(FrameColumns.joined([fresh, changed]), added, differing)


def _is_in(lines: Integers, count: int) -> npt.NDArray[np.bool_]:
    found = np.zeros(count, dtype=np.bool_)
    found[lines[lines >= 0]] = True
    return found


def joined(frames: Sequence[Frame]) -> tuple[list[Frame], dict[int, int]]:
    """Frames with those of one target, instant and map made one: the later one's sample where both have it.

    And by target how many samples gave way to another value.
    """
    by_key: dict[tuple[int, datetime], Frame] = {}
    differing: dict[int, int] = {}
    for frame in frames:
        key = (frame.target_id, frame.at)
        before = by_key.get(key)
        if before is None:
            by_key[key] = frame
            continue
        values = np.full(max(len(before.values), len(frame.values)), np.nan)
        values[: len(before.values)] = before.values
        given = np.flatnonzero(~np.isnan(frame.values))
        gone = np.count_nonzero(~np.isnan(values[given]) & (values[given] != frame.values[given]))
        values[given] = frame.values[given]
        by_key[key] = Frame(frame.target_id, frame.map_id, frame.at, values)
        if gone:
            differing[frame.target_id] = differing.get(frame.target_id, 0) + int(gone)
    return list(by_key.values()), differing


def _in_order_of(connection: Connection, stored: FrameColumns, new: FrameColumns) -> FrameColumns:
    """Stored frames in the order of the maps of new ones, line by line; those get the series that they lack."""
    other = stored.map_id != new.map_id
    if not other.any():
        return stored
    place = stored.place.copy()
    frame = stored.frame
    for before, after in sorted(set(zip(stored.map_id[other].tolist(), new.map_id[other].tolist(), strict=True))):
        here = ((stored.map_id == before) & (new.map_id == after))[frame]
        place[here] = _moved_places(connection, before, after)[place[here]]
    return FrameColumns(stored.target_id, new.map_id, stored.at, stored.size, place, stored.value)


def _moved_places(connection: Connection, before: int, after: int) -> Integers:
    """Where each place of one map lies in another one of its target, which is made to hold all of its series."""
    maps = maps_of(connection, [before, after])
    listed = set(maps[after])
    missing = [series_id for series_id in maps[before] if series_id not in listed]
    if missing:
        append_to_map(connection, after, missing)
    place_of = {series_id: place for place, series_id in enumerate([*maps[after], *missing])}
    return np.array([place_of[series_id] for series_id in maps[before]], dtype=np.int64)


_SELECT = select(*(_TABLE.c[name] for name in READ))


def _stored(connection: Connection, frames: FrameColumns) -> FrameColumns:
    """The stored frames at the targets and instants of `frames`, and perhaps others. Uses index: sample_frame_pkey."""
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


_STANDING_NAMES = ("target_id", "at")
_STANDING = select(*(_TABLE.c[name] for name in _STANDING_NAMES))


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


def _delete(connection: Connection, frames: FrameColumns) -> None:
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


def read_columns(
    connection: Connection, *, target_ids: Sequence[int], since: datetime, until: datetime
) -> FrameColumns:
    """All frames of the targets in the half-open interval, as columns. Uses index: sample_frame_pkey."""
    query = _SELECT.where(_TABLE.c.target_id.in_(target_ids), _TABLE.c.at >= since, _TABLE.c.at < until)
    return _read(connection, query)


def read_frames(connection: Connection, *, target_ids: Sequence[int], since: datetime, until: datetime) -> list[Frame]:
    """All frames of the targets in the half-open interval, dense, oldest first. Uses index: sample_frame_pkey."""
    found = read_frames_as_stored(connection, target_ids=target_ids, since=since, until=until)
    return [frame.dense() for frame in found]


def read_frames_as_stored(
    connection: Connection, *, target_ids: Sequence[int], since: datetime, until: datetime
) -> list[Frame]:
    """As `read_frames`, but those that are stored sparse stay so: dense, thousands of them would not fit in memory."""
    query = _SELECT.where(_TABLE.c.target_id.in_(target_ids), _TABLE.c.at >= since, _TABLE.c.at < until)
    frames: list[Frame] = []
    for rows in decode_rows(copy_out(connection, query)):
        columns = rows.columns
        places = columns["places"].astype(np.int64) - 1 if "places" in columns else itertools.repeat(None, len(rows))
        frames.extend(
            Frame(target_id, map_id, from_wire_instant(at), values, one)
            for target_id, map_id, at, values, one in zip(
                columns["target_id"].tolist(),
                columns["map_id"].tolist(),
                columns["at"].tolist(),
                columns["values"],
                places,
                strict=True,
            )
        )
    return sorted(frames, key=lambda frame: frame.at)
