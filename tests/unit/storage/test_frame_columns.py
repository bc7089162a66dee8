"""Frames as columns: gathered, joined, merged, and sent over the wire, each as a plain dictionary would do it."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.storage import tables
from aggregator.storage.copying import Rows, encode, from_wire_instant, grouped, scalars, wire_instants
from aggregator.storage.frame_columns import FrameColumns, merge
from aggregator.storage.frame_rows import READ, WRITTEN, decode_frames, decode_rows, encode_frames
from aggregator.storage.frames import Frame, columns_of, joined

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
TRAILER = b"\xff\xff"

Samples = dict[tuple[int, int, int], float]  # (target, instant, place) -> value

VALUES = st.floats(allow_nan=False) | st.sampled_from([0.0, -0.0, 1.0, math.inf])
SAMPLES = st.dictionaries(st.tuples(st.integers(1, 3), st.integers(-3, 3), st.integers(0, 40)), VALUES, max_size=60)


def frames_of(samples: Samples, *, map_id: int = 7) -> FrameColumns:
    """Any samples as columns, through dense frames."""
    instants: dict[tuple[int, int], dict[int, float]] = {}
    for (target_id, at, place), value in samples.items():
        instants.setdefault((target_id, at), {})[place] = value
    dense = []
    for (target_id, at), by_place in instants.items():
        values = np.full(max(by_place) + 2, np.nan)
        values[list(by_place)] = list(by_place.values())
        dense.append(Frame(target_id, map_id, from_wire_instant(at), values))
    return columns_of(dense)


def samples_in(frames: FrameColumns) -> Samples:
    """The samples of columns; fails where the order is not what it has to be."""
    keys = list(zip(frames.target_id[frames.frame], frames.at[frames.frame], frames.place, strict=True))
    assert keys == sorted(set(keys))
    assert (frames.size > 0).all()
    return {tuple(map(int, key)): float(value) for key, value in zip(keys, frames.value, strict=True)}  # type: ignore[misc] # three of them


@given(SAMPLES)
def test_frames_hold_the_samples_that_they_were_made_from(samples: Samples) -> None:
    assert samples_in(frames_of(samples)) == samples


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 9), VALUES)))
def test_of_two_samples_at_one_place_the_later_one_stays_and_is_counted(
    given_samples: list[tuple[int, int, float]],
) -> None:
    kept: Samples = {}
    replaced = 0
    for at, place, value in given_samples:
        before = kept.get((5, at, place))
        replaced += before is not None and before != value
        kept[5, at, place] = value
    at, place = (np.array([sample[part] for sample in given_samples], dtype=np.int64) for part in (0, 1))
    value = np.array([sample[2] for sample in given_samples], dtype=np.float64)
    gathered = FrameColumns.of_samples(target_id=5, map_id=1, at=at, place=place, value=value)
    assert samples_in(gathered.frames) == kept
    assert gathered.replaced == replaced


@given(SAMPLES, SAMPLES)
def test_merging_takes_the_new_sample_and_says_what_changed(stored: Samples, new: Samples) -> None:
    both = {key[:2] for key in stored} & {key[:2] for key in new}
    stored = {key: value for key, value in stored.items() if key[:2] in both}
    new = {key: value for key, value in new.items() if key[:2] in both}
    merged = merge(frames_of(stored), frames_of(new, map_id=8))
    assert samples_in(merged.frames) == stored | new
    keys = list(zip(merged.frames.target_id.tolist(), merged.frames.at.tolist(), strict=True))
    for key, changed, differing, added in zip(keys, merged.changed, merged.differing, merged.added, strict=True):
        mine = {one: value for one, value in new.items() if one[:2] == key}
        assert added == len(mine.keys() - stored.keys())
        assert differing == sum(stored[one] != value for one, value in mine.items() if one in stored)
        assert changed == bool(added or differing)
    assert set(merged.frames.map_id.tolist()) <= {8}


@given(SAMPLES, SAMPLES)
def test_frames_are_found_by_target_and_instant(here: Samples, there: Samples) -> None:
    mine, theirs = frames_of(here), frames_of(there)
    keys = list(zip(mine.target_id.tolist(), mine.at.tolist(), strict=True))
    for line, key in zip(
        mine.find(theirs), zip(theirs.target_id.tolist(), theirs.at.tolist(), strict=True), strict=True
    ):
        assert keys[line] == key if key in keys else line == -1


@given(SAMPLES)
def test_frames_come_back_from_the_wire_each_in_its_smaller_form(samples: Samples) -> None:
    frames = frames_of(samples)
    read: list[bytes] = []
    for part in encode_frames(frames, np.repeat(wire_instants([NOW]), len(frames))):
        for rows in grouped(memoryview(part + TRAILER), tables.sample_frame, WRITTEN, optional=("places",)):
            assert set(rows.columns.pop("received_at")) == set(wire_instants([NOW]))
            if "places" in rows.columns:
                assert (48 + 12 * rows.width("places") < 24 + 8 * rows.columns["places"].max(axis=1)).all()
            else:
                given_samples = np.count_nonzero(~np.isnan(rows.columns["values"]), axis=1)
                assert (24 + 8 * rows.width("values") <= 48 + 12 * given_samples).all()
            read.append(encode(tables.sample_frame, READ, rows))
    back = decode_frames(memoryview(b"".join(read) + TRAILER))
    assert samples_in(back) == samples
    assert (back.map_id == 7).all()


@given(SAMPLES, st.permutations(range(9)))
def test_frames_in_parts_are_joined_in_their_order(samples: Samples, order: list[int]) -> None:
    parts = [frames_of({key: value for key, value in samples.items() if sum(key[:2]) % 9 == part}) for part in order]
    assert samples_in(FrameColumns.joined(parts)) == samples


def test_frames_of_one_instant_are_made_one_and_what_gave_way_is_counted() -> None:
    def frame(*values: float) -> Frame:
        return Frame(1, 7, NOW, np.array(values))

    (made,), replaced = joined([frame(1.0, math.nan, 3.0), frame(2.0, 5.0), frame(math.nan, 5.0, 3.0)])
    assert made.values.tolist() == [2.0, 5.0, 3.0]
    assert replaced == {1: 1}


def test_a_sparse_frame_is_the_dense_one_with_fewer_values() -> None:
    sparse = Frame(1, 7, NOW, np.array([1.5, 2.5]), np.array([0, 4]))
    assert sparse.length == 5
    assert sparse.pick(np.arange(10, 20)).tolist() == [10, 14]
    np.testing.assert_array_equal(sparse.dense().values, [1.5, math.nan, math.nan, math.nan, 2.5])
    assert sparse.dense().dense().pick(np.arange(10, 20)).tolist() == [10, 11, 12, 13, 14]


def test_rows_of_any_widths_are_told_apart() -> None:
    columns = {"target_id": np.array([1]), "map_id": np.array([2]), "at": wire_instants([NOW])}
    shapes = [(None, 3), (2, 2), (None, 1), (2, 2), (5, 5), (None, 3)]
    data = b""
    for places, width in shapes:
        arrays = {"values": np.full((1, width), 0.5)} | ({"places": np.ones((1, places))} if places else {})
        data += encode(tables.sample_frame, READ, Rows(columns | arrays))
    found = {
        (rows.width("places"), rows.width("values")): len(rows) for rows in decode_rows(memoryview(data + TRAILER))
    }
    assert found == {(-1, 3): 2, (2, 2): 2, (-1, 1): 1, (5, 5): 1}
    with pytest.raises(ValueError, match="a row holds a NULL, or arrays of unequal length"):
        list(decode_rows(memoryview(data[:-1] + TRAILER)))


def test_rows_of_scalars_keep_their_order() -> None:
    at = wire_instants([NOW + timedelta(seconds=place) for place in range(3)])
    data = encode(tables.sample_frame, ("target_id", "at"), Rows({"target_id": np.array([3, 1, 2]), "at": at}))
    read = scalars(memoryview(data + TRAILER), tables.sample_frame, ("target_id", "at")).columns
    assert read["target_id"].tolist() == [3, 1, 2]
    assert read["at"].tolist() == at.tolist()
