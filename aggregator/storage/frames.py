"""Sample frames: one row holds all values of a target at one instant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, select, tuple_, update

from aggregator.storage import tables
from aggregator.storage.copying import Rows, copy_in, copy_out, encode, from_wire_instant, grouped, wire_instants
from aggregator.storage.series import append_to_map, maps_of

_NAMES = ("target_id", "map_id", "at", "received_at", "values")
_READ_NAMES = ("target_id", "map_id", "at", "values")
_TARGET = 'aggregator."sample_frame"'


@dataclass(frozen=True)
class Frame:
    """All values of a target at one instant: float64 in the order of its frame map, NaN where there is no sample."""

    target_id: int
    map_id: int
    at: datetime
    values: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Written:
    """What writing did: the frames that changed anything, and by target how many samples differed from stored ones."""

    changed: tuple[Frame, ...]
    differing: dict[int, int]


def lock_targets(connection: Connection, target_ids: Iterable[int]) -> None:
    """Lock targets in the order of their ids, so that two writers never wait for each other.

    Uses index: targets_pkey.
    """
    statement = select(tables.targets.c.id).where(tables.targets.c.id.in_(sorted(target_ids)))
    connection.execute(statement.order_by(tables.targets.c.id).with_for_update(key_share=True))


def write_frames(connection: Connection, frames: Sequence[Frame], *, received_at: datetime) -> Written:
    """Store frames; where one stands at the same target and instant, the two are merged element by element.

    The caller holds the targets' locks. Frames of one call differ in (target, instant).
    """
    stored = {(frame.target_id, frame.at): frame for frame in stored_frames(connection, frames)}
    changed = [frame for frame in frames if (frame.target_id, frame.at) not in stored]
    _copy(connection, changed, received_at=received_at)
    differing: dict[int, int] = {}
    for frame in frames:
        if (before := stored.get((frame.target_id, frame.at))) is not None:
            ordered = _in_order_of(connection, before, frame.map_id)
            merged, differs = merge(ordered, frame.values)
            if not _is_same(merged, ordered):
                _replace(connection, frame, merged)
                changed.append(frame)
            if differs:
                differing[frame.target_id] = differing.get(frame.target_id, 0) + differs
    return Written(tuple(changed), differing)


def joined(frames: Sequence[Frame]) -> list[Frame]:
    """Frames with those of one target, instant and map made one; the later one's sample where both have it."""
    by_key: dict[tuple[int, datetime], Frame] = {}
    for frame in frames:
        key = (frame.target_id, frame.at)
        if (before := by_key.get(key)) is not None:
            merged, _ = merge(before.values, frame.values)
            by_key[key] = Frame(frame.target_id, frame.map_id, frame.at, merged)
        else:
            by_key[key] = frame
    return list(by_key.values())


def _is_same(merged: npt.NDArray[np.float64], before: npt.NDArray[np.float64]) -> bool:
    """Whether merging changed nothing: the same samples once more."""
    return len(merged) == len(before) and np.array_equal(merged, before, equal_nan=True)


def _in_order_of(connection: Connection, frame: Frame, map_id: int) -> npt.NDArray[np.float64]:
    """The frame's values in the order of another map of its target, to which series that it lacks are appended."""
    if frame.map_id == map_id:
        return frame.values
    maps = maps_of(connection, [frame.map_id, map_id])
    listed = maps[map_id]
    missing = [series_id for series_id in maps[frame.map_id] if series_id not in set(listed)]
    append_to_map(connection, map_id, missing)
    place_of = {series_id: place for place, series_id in enumerate([*listed, *missing])}
    ordered = np.full(len(place_of), np.nan)
    ordered[[place_of[series_id] for series_id in maps[frame.map_id][: len(frame.values)]]] = frame.values
    return ordered


def merge(stored: npt.NDArray[np.float64], new: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], int]:
    """Both value vectors in one, the new sample where both have one; and how many of those differ."""
    length = max(len(stored), len(new))
    merged = np.full(length, np.nan)
    merged[: len(stored)] = stored
    given = ~np.isnan(new)
    before = merged[: len(new)]
    differs = int(np.count_nonzero(given & ~np.isnan(before) & (before != new)))
    before[given] = new[given]
    return merged, differs


def stored_frames(connection: Connection, frames: Sequence[Frame]) -> list[Frame]:
    """The stored frames at the targets and instants of `frames`. Uses index: sample_frame_pkey."""
    if not frames:
        return []
    table = tables.sample_frame
    keys = [(frame.target_id, frame.at) for frame in frames]
    statement = select(table.c.target_id, table.c.map_id, table.c.at, table.c["values"]).where(
        tuple_(table.c.target_id, table.c.at).in_(keys),
        # Said once more for the planner: it prunes partitions by a range, not by a list of pairs.
        table.c.at.between(min(at for _, at in keys), max(at for _, at in keys)),
    )
    rows = connection.execute(statement)
    return [Frame(row.target_id, row.map_id, row.at, np.array(row[3], dtype=np.float64)) for row in rows]


def _copy(connection: Connection, frames: Sequence[Frame], *, received_at: datetime) -> None:
    """COPY frames, grouped by length: rows of one length have one layout."""
    if not frames:
        return
    by_length: dict[int, list[Frame]] = {}
    for frame in frames:
        by_length.setdefault(len(frame.values), []).append(frame)
    parts = [encode(tables.sample_frame, _NAMES, _rows(group, received_at)) for group in by_length.values()]
    copy_in(connection, _TARGET, _NAMES, parts)


def _rows(frames: Sequence[Frame], received_at: datetime) -> Rows:
    return Rows(
        {
            "target_id": np.array([frame.target_id for frame in frames]),
            "map_id": np.array([frame.map_id for frame in frames]),
            "at": wire_instants([frame.at for frame in frames]),
            "received_at": np.repeat(wire_instants([received_at]), len(frames)),
            "values": np.stack([frame.values for frame in frames]),
        }
    )


def _replace(connection: Connection, frame: Frame, values: npt.NDArray[np.float64]) -> None:
    """Uses index: sample_frame_pkey."""
    table = tables.sample_frame
    connection.execute(
        update(table)
        .where(table.c.target_id == frame.target_id, table.c.at == frame.at)
        .values({"map_id": frame.map_id, "values": values.tolist()})
    )


def read_frames(connection: Connection, *, target_ids: Sequence[int], since: datetime, until: datetime) -> list[Frame]:
    """All frames of the targets in the half-open interval, oldest first. Uses index: sample_frame_pkey."""
    table = tables.sample_frame
    query = select(*(table.c[name] for name in _READ_NAMES)).where(
        table.c.target_id.in_(target_ids), table.c.at >= since, table.c.at < until
    )
    frames: list[Frame] = []
    for rows in grouped(copy_out(connection, query), table, _READ_NAMES):
        columns = rows.columns
        frames.extend(
            Frame(int(target_id), int(map_id), from_wire_instant(at), values)
            for target_id, map_id, at, values in zip(
                columns["target_id"], columns["map_id"], columns["at"], columns["values"], strict=True
            )
        )
    return sorted(frames, key=lambda frame: frame.at)
