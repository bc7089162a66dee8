"""Samples are read and written alike in both forms and in a mix of them, to the bit.

Each script is played twice: as samples are collected, and with the same spans sealed now and then. Whoever reads
samples, and whoever writes them, must not see a difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from aggregator.storage import frames, sample_forms
from aggregator.storage.copying import wire_instants
from aggregator.storage.engine import Connection
from aggregator.storage.frame_columns import FrameColumns
from aggregator.storage.sealed_samples import microseconds_of
from tests.effort import examples
from tests.installation import Installation
from tests.sealable import EDGE, SERIES, SINCE, UNTIL, Rows, Sealable, undone, written_as_rows

START = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
_SPECIAL = [np.inf, -np.inf, -0.0, 5e-324, 1.7976931348623157e308, 2.0**53]


@pytest.fixture
def sealable(installation: Installation) -> Sealable:
    return Sealable.make(installation)


def values_of(random: np.random.Generator, frames_count: int) -> np.ndarray:
    """Values of a kind for each series: constants, decimals, counters with resets, full mantissas; now and then odd."""
    shape = (frames_count, SERIES)
    walks = random.normal(size=shape).cumsum(axis=0)
    counted = np.where(random.random(shape) < 0.02, 0, random.integers(0, 900, shape)).cumsum(axis=0) / 8
    found = np.select(
        [np.arange(SERIES) % 5 == kind for kind in range(4)],
        [np.full(shape, 3.25), np.round(walks, 2), counted, walks],
        np.floor(walks * 1e9),
    )
    return np.where(random.random(shape) < 0.005, random.choice(_SPECIAL, size=shape), found)


def instants_of(random: np.random.Generator, count: int) -> np.ndarray:
    """Instants of both spans, some of them at an edge: every 15 s or so, by milliseconds or by microseconds."""
    unit = int(random.choice([1, 1_000, 15_000_000]))
    length = (UNTIL - SINCE) // timedelta(microseconds=1)
    chosen = random.integers(0, length // unit, count) * unit
    middle = int(random.integers(0, length - 10**9))
    chosen[count // 2 :] = middle + random.integers(0, 10**9 // unit, count - count // 2) * unit
    edges = [0, length // 2, length // 2 - 1, length - 1]
    edge = (EDGE - SINCE) // timedelta(microseconds=1)
    return np.unique(np.concatenate([chosen, random.choice(edges, 2), [edge]]))


def made_up(random: np.random.Generator, sealable: Sealable, *, map_of: int | None = None) -> FrameColumns:
    """Frames of both targets: of each instant, one by one of its maps, dense or sparse."""
    parts = []
    for target_id, maps in sealable.maps.items():
        at = instants_of(random, int(random.choice([1, 5, 60])))
        values = values_of(random, len(at))
        values[random.random(values.shape) < random.choice([0.0, 0.02, 0.9])] = np.nan
        which = random.integers(0, len(maps), len(at)) if map_of is None else np.full(len(at), map_of)
        for line, place in enumerate(which.tolist()):
            width = (SERIES, SERIES - 3, 2)[place]
            values[line, width:] = np.nan
        given = ~np.isnan(values)
        line, place = np.nonzero(given)
        own = FrameColumns(
            np.full(len(at), target_id),
            np.array(maps)[which],
            at + int(wire_instants([SINCE])[0]),
            given.sum(axis=1),
            place,
            values[line, place],
        )
        parts.append(own.only(own.size > 0))
    return FrameColumns.joined(parts)


def again(random: np.random.Generator, before: FrameColumns, after: FrameColumns) -> FrameColumns:
    """Some frames that came before once more, and of others the instants only."""
    repeated = before.only(random.random(len(before)) < 0.3)
    moved = before.only((random.random(len(before)) < 0.1) & (repeated.find(before) < 0))
    lines = moved.find(after)
    others = after.only(lines < 0)
    changed = FrameColumns(
        moved.target_id, moved.map_id, moved.at, moved.size, moved.place, moved.value + random.integers(0, 2)
    )
    parts = [part for part in (repeated, changed) if len(part)]
    known = FrameColumns.joined(parts)
    return FrameColumns.joined([part for part in (known, others.only(known.find(others) < 0)) if len(part)])


def script_of(seed: int, sealable: Sealable) -> Iterator[FrameColumns]:
    """What is written, one after the other: churned maps, late frames beside, repeated ones, changed ones."""
    random = np.random.default_rng(seed)
    before = made_up(random, sealable, map_of=int(random.integers(0, 2)))
    yield before
    for _ in range(3):
        after = again(random, before, made_up(random, sealable))
        yield after
        before = after


def play(connection: Connection, sealable: Sealable, seed: int, *, seals: bool) -> Rows:
    """Write all of a script; gives what writers were told and what readers find after each step."""
    found: Rows = []
    for step, columns in enumerate(script_of(seed, sealable)):
        frames.lock_targets(connection, sealable.maps)
        written = frames.write_columns(connection, columns, received_at=START + timedelta(microseconds=step * 777_001))
        found.append(("written", written_as_rows(written)))
        found.append(("late", sealable.observed(connection)))
        if seals:
            sealable.seal(connection)
            assert counted(connection, "sample_frame") == 0
            assert counted(connection, "sample_sealed") > 0
        found.append(("sealed", sealable.observed(connection)))
    return found


def counted(connection: Connection, table: str) -> int:
    return int(connection.execute(text(f"SELECT count(*) FROM aggregator.{table}")).scalar_one())  # noqa: S608 - ours


PROFILE = settings(
    max_examples=examples(3),
    phases=[Phase.explicit, Phase.generate],  # no smaller seed is a smaller script
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@PROFILE
@given(seed=st.integers(0, 2**32))
def test_nobody_sees_whether_samples_are_sealed(installation: Installation, sealable: Sealable, seed: int) -> None:
    with undone(installation) as connection:
        expected = play(connection, sealable, seed, seals=False)
    with undone(installation) as connection, pytest.MonkeyPatch.context() as patched:
        # In parts of a span, of one target or several at once.
        patched.setattr(sample_forms, "MOST_SAMPLES", (10**6, 300, 40)[seed % 3])
        found = play(connection, sealable, seed, seals=True)
    for step, (one, other) in enumerate(zip(expected, found, strict=True)):
        assert one[0] == other[0]
        assert one[1] == other[1], (step, one[0])


@given(st.integers(-(2**51) + 1, 2**51 - 1))
def test_microseconds_come_back_from_milliseconds(microseconds: int) -> None:
    assert microseconds_of(np.array([microseconds]) / 1_000)[0] == microseconds
