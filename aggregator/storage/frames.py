"""Sample frames: one row holds all values of a target at one instant, or only those that it has."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, select, text

from aggregator.storage import tables
from aggregator.storage.copying import Rows, copy_out, from_wire_instant, wire_instants
from aggregator.storage.frame_columns import FrameColumns, Integers, merge
from aggregator.storage.frame_rows import decode_rows, rows_of
from aggregator.storage.open_frames import Arrived, asked, delete_open, find_open, read_open, write_open
from aggregator.storage.sample_forms import open_changed
from aggregator.storage.sealed_frames import find_sealed, read_sealed
from aggregator.storage.series import append_to_map, maps_of


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
    sealed = find_sealed(connection, frames)
    stored = (
        FrameColumns.joined([find_open(connection, frames), sealed]) if len(sealed) else find_open(connection, frames)
    )
    line = stored.find(frames)
    fresh = frames.only(line < 0)
    again = frames.only(line >= 0)
    merged = merge(_in_order_of(connection, stored.only(_is_in(line, len(stored))), again), again)
    changed = merged.frames.only(merged.changed)
    open_changed(connection, changed.only(sealed.find(changed) >= 0))
    delete_open(connection, changed)
    received = wire_instants([received_at])
    write_open(connection, [Arrived(part, np.repeat(received, len(part))) for part in (fresh, changed)])
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


def read_columns(
    connection: Connection, *, target_ids: Sequence[int], since: datetime, until: datetime
) -> FrameColumns:
    """All frames of the targets in the half-open interval, as columns.

    None of its statements reads both forms: the caller holds the targets' locks, their shard's, the forms, or a
    snapshot. Uses indexes: sample_frame_pkey, sample_sealed_pkey, sample_clock_pkey.
    """
    edges = {"since": since, "until": until}
    sealed = read_sealed(connection, target_ids=target_ids, **edges)
    opened = read_open(connection, target_ids=target_ids, **edges)
    return FrameColumns.joined([sealed, opened]) if len(sealed) else opened


def read_frames(connection: Connection, *, target_ids: Sequence[int], since: datetime, until: datetime) -> list[Frame]:
    """All frames of the targets in the half-open interval, dense, oldest first; as `read_columns`."""
    found = read_frames_as_stored(connection, target_ids=target_ids, since=since, until=until)
    return [frame.dense() for frame in found]


def read_frames_as_stored(
    connection: Connection, *, target_ids: Sequence[int], since: datetime, until: datetime
) -> list[Frame]:
    """As `read_frames`, but those that are stored sparse stay so: dense, thousands of them would not fit in memory."""
    sealed = read_sealed(connection, target_ids=target_ids, since=since, until=until)
    data = copy_out(connection, asked(target_ids, since, until))
    rows = itertools.chain(rows_of(sealed, sealed.at), decode_rows(data))
    return sorted(itertools.chain.from_iterable(map(_frames_of, rows)), key=lambda frame: frame.at)


def _frames_of(rows: Rows) -> Iterator[Frame]:
    columns = rows.columns
    places = columns["places"].astype(np.int64) - 1 if "places" in columns else itertools.repeat(None, len(rows))
    keys = (columns[name].tolist() for name in ("target_id", "map_id", "at"))
    for target_id, map_id, at, values, one in zip(*keys, columns["values"], places, strict=True):
        yield Frame(target_id, map_id, from_wire_instant(at), values, one)
