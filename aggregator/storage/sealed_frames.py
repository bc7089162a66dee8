"""Sealed frames: read from sealed rows and their clocks as the frames that they were, written and deleted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, Table, delete, func, select

from aggregator.rollups.packed import Part
from aggregator.storage import forms, tables
from aggregator.storage.copying import copy_in, copy_out, from_wire_instant, wire_instants
from aggregator.storage.frame_columns import FrameColumns
from aggregator.storage.open_frames import Arrived
from aggregator.storage.sealed_columns import SAMPLE_OWN, SAMPLE_SHARED, columns_of
from aggregator.storage.sealed_instants import KEYS, Instants, Key, Meant, instants_of, keys_of
from aggregator.storage.sealed_samples import Floats, Integers, PackedFrames
from aggregator.storage.sealed_spans import SAMPLE_SPANS
from aggregator.storage.sealed_wire import Read, decode_rows, encode_rows, unwire

_SEALED, _CLOCK = tables.sample_sealed, tables.sample_clock
_ROW_NAMES = (*KEYS, "place", *columns_of(SAMPLE_OWN))
_CLOCK_NAMES = (*KEYS, "samples", *columns_of(SAMPLE_SHARED))
#: Targets whose rows are read at once: they are small, but there are many of them.
_TARGETS_AT_ONCE = 16


def read_sealed(connection: Connection, *, target_ids: Sequence[int], since: datetime, until: datetime) -> FrameColumns:
    """The sealed frames of the targets in the half-open interval.

    In several statements: the caller holds the targets' locks, their shard's, the forms, or a snapshot.
    Uses indexes: sample_sealed_pkey, sample_clock_pkey.
    """
    if not forms.may_be_sealed(connection, forms.SAMPLES_ID, since=since):
        return FrameColumns.nothing()
    return read_sealed_arrived(connection, target_ids=target_ids, since=since, until=until).frames


def read_sealed_arrived(
    connection: Connection, *, target_ids: Sequence[int], since: datetime, until: datetime
) -> Arrived:
    """As `read_sealed`, and when they were received."""
    first, last = wire_instants([since, until]).tolist()

    def meant(_: int, at: Integers) -> npt.NDArray[np.bool_]:
        return np.asarray((at >= first) & (at < last))

    return _read_meant(connection, sorted(target_ids), meant, since=since, until=until)


def find_sealed(connection: Connection, frames: FrameColumns) -> FrameColumns:
    """The sealed frames at the targets and instants of `frames`, and no others; the caller holds the targets' locks.

    Uses indexes: sample_sealed_pkey, sample_clock_pkey.
    """
    if not len(frames):
        return frames
    since, until = (from_wire_instant(int(edge)) for edge in (frames.at.min(), frames.at.max() + 1))
    if not forms.may_be_sealed(connection, forms.SAMPLES_ID, since=since):
        return FrameColumns.nothing()
    target_ids = np.unique(frames.target_id).tolist()
    at_of = {target_id: frames.at[frames.target_id == target_id] for target_id in target_ids}

    def meant(target_id: int, at: Integers) -> npt.NDArray[np.bool_]:
        return np.isin(at, at_of[target_id])

    return _read_meant(connection, target_ids, meant, since=since, until=until).frames


def _read_meant(
    connection: Connection, target_ids: Sequence[int], meant: Meant, *, since: datetime, until: datetime
) -> Arrived:
    parts = []
    for begin in range(0, len(target_ids), _TARGETS_AT_ONCE):
        some = target_ids[begin : begin + _TARGETS_AT_ONCE]
        first, _ = SAMPLE_SPANS.bounds(since)
        clocks = _read(connection, _CLOCK, _CLOCK_NAMES, some, since=first, until=until)
        instants = instants_of(clocks, meant)
        if instants:
            asked = sorted({one.target_id for one in instants.values()})
            starts = sorted({key[2] for key in instants})
            edges = {"since": from_wire_instant(starts[0]), "until": from_wire_instant(starts[-1] + 1)}
            rows = _read(connection, _SEALED, _ROW_NAMES, asked, **edges)
            parts.append(_arrived(rows, instants))
    return Arrived.joined(parts)


def _read(
    connection: Connection,
    table: Table,
    names: tuple[str, ...],
    target_ids: Sequence[int],
    *,
    since: datetime,
    until: datetime,
) -> Read:
    begins = table.c.start >= since, table.c.start < until
    query = select(*(table.c[name] for name in names)).where(table.c.target_id.in_(target_ids), *begins)
    return decode_rows(copy_out(connection, query), names)


def _where(table: Table, target_ids: Sequence[int], since: datetime, until: datetime) -> list[Any]:
    """The rows of the spans that overlap the half-open interval."""
    first, _ = SAMPLE_SPANS.bounds(since)
    return [table.c.target_id.in_(target_ids), table.c.start >= first, table.c.start < until]


@dataclass(frozen=True)
class _Frames:
    """The frames of some clocks; `line_of`: by clock, the line of each of its instants."""

    target_id: Integers
    map_id: Integers
    at: Integers
    received_at: Integers
    line_of: Mapping[Key, Integers]

    @classmethod
    def of(cls, instants: Mapping[Key, Instants]) -> _Frames:
        lengths = [len(one.at) for one in instants.values()]
        target_id, map_id = (
            np.repeat(np.array([key[part] for key in instants], dtype=np.int64), lengths) for part in (0, 1)
        )
        at, received_at = (
            np.concatenate([getattr(one, name) for one in instants.values()]) for name in ("at", "received_at")
        )
        order = np.lexsort((at, target_id))
        is_first = np.append(True, (np.diff(at[order]) != 0) | (np.diff(target_id[order]) != 0))
        line = np.zeros(len(at), dtype=np.int64)
        line[order] = np.cumsum(is_first) - 1
        first = order[is_first]
        line_of = dict(zip(instants, np.split(line, np.cumsum(lengths)[:-1]), strict=True))
        return cls(target_id[first], map_id[first], at[first], received_at[first], line_of)


def _arrived(rows: Read, instants: Mapping[Key, Instants]) -> Arrived:
    """The frames that are meant, from rows of the clocks that have any, and perhaps of others."""
    found = _Frames.of(instants)
    parts = list(_samples(rows, instants, found))
    line, place, value = (np.concatenate([part[name] for part in parts]) for name in range(3))
    # Of a target that always has the same series, all is in order already.
    order = np.argsort(line * (int(place.max()) + 1) + place, kind="stable")
    size = np.bincount(line, minlength=len(found.at))
    frames = FrameColumns(found.target_id, found.map_id, found.at, size, place[order], value[order])
    return Arrived(frames, found.received_at)


def _samples(
    rows: Read, instants: Mapping[Key, Instants], found: _Frames
) -> Iterator[tuple[Integers, Integers, Floats]]:
    """The frame, place (from 0) and value of each sample that is meant, instant after instant."""
    alike: dict[tuple[int, bytes], list[int]] = {}
    keys = list(keys_of(rows))
    for row, key in enumerate(keys):
        if (one := instants.get(key)) is not None:
            alike.setdefault((one.samples, one.places.tobytes()), []).append(row)
    place_of = rows.integers("place") - 1
    for (samples, _), lines in alike.items():
        chosen = sorted(lines, key=lambda row: (keys[row], place_of[row]))
        value = _values(rows.only(chosen), samples, instants[keys[chosen[0]]].places)
        line = np.stack([found.line_of[keys[row]] for row in chosen])
        place = np.broadcast_to(place_of[chosen][:, None], line.shape)
        yield line.T.ravel(), place.T.ravel(), value.T.ravel()


def _values(rows: Read, samples: int, places: Integers) -> Floats:
    """The values of rows of one length at some places; shape (rows, places)."""
    values = np.empty((rows.count, len(places)))
    for part in unwire(rows, "value", buckets=samples).parts:
        values[part.lines] = _at_places(part, places, samples).values()
    return values


def _at_places(part: Part, places: Integers, samples: int) -> Part:
    """A part with these places only."""
    if len(places) == samples:
        return part
    elements = part.elements[:, places] if part.elements.shape[1] else part.elements
    corrections = part.corrections[:, places] if part.corrections.shape[1] else part.corrections
    return replace(part, elements=elements, corrections=corrections)


def write_sealed(connection: Connection, packed: PackedFrames) -> None:
    """Store packed frames; their partitions are there, and no row of theirs is."""
    for table, listed in ((_SEALED, packed.rows), (_CLOCK, packed.clocks)):
        names = tuple(table.c.keys())
        copy_in(connection, f'aggregator."{table.name}"', names, [encode_rows(listed, names)])


def delete_sealed(connection: Connection, *, target_ids: Sequence[int], since: datetime, until: datetime) -> int:
    """Delete what is sealed of targets in whole spans; gives how many rows.

    Uses indexes: sample_sealed_pkey, sample_clock_pkey.
    """
    return sum(
        connection.execute(delete(table).where(*_where(table, target_ids, since, until))).rowcount
        for table in (_SEALED, _CLOCK)
    )


def count_sealed(connection: Connection, *, target_ids: Sequence[int], since: datetime, until: datetime) -> int:
    """About how many samples targets have sealed in whole spans, or more.

    Uses indexes: sample_sealed_pkey, sample_clock_pkey.
    """
    rows = select(func.count()).where(*_where(_SEALED, target_ids, since, until)).scalar_subquery()
    longest = select(func.max(_CLOCK.c.samples)).where(*_where(_CLOCK, target_ids, since, until)).scalar_subquery()
    return int(connection.execute(select(rows * func.coalesce(longest, 0))).scalar_one())
