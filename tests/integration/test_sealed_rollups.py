"""Rollups are read alike in both forms and in a mix of them, to the bit, and written where they were sealed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from aggregator.rollups.statistics import Statistics, names_of
from aggregator.storage import catalog, forms, partitions
from aggregator.storage.blocks import BLOCK_SERIES, Grid
from aggregator.storage.catalog import TierEntry
from aggregator.storage.engine import Connection
from aggregator.storage.rollup_forms import read_rollups, seal, write_rollups
from aggregator.storage.rollup_matrix import Stored
from aggregator.storage.rollup_rows import Changed, TierRows
from tests.effort import examples
from tests.installation import Installation

START = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)
SPAN = datetime(2026, 3, 1, 8, tzinfo=UTC)
END = datetime(2026, 3, 1, 12, tzinfo=UTC)
BLOCKS = 3
SHARD = 1

Rollups = dict[datetime, Stored]


@contextmanager
def undone(installation: Installation) -> Iterator[Connection]:
    """A transaction of which nothing stays."""
    with installation.database.engine.connect() as connection, connection.begin() as transaction:
        yield connection
        transaction.rollback()


def numbers(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers of a kind for each series, constants above all, and now and then what is no number."""
    kind = random.integers(0, 5, size=shape[1:])
    walks = random.normal(size=shape).cumsum(axis=0)
    found = np.select(
        [kind == 0, kind == 1, kind == 2, kind == 3],
        [np.ones(shape) * random.integers(0, 9), np.round(walks, 2), np.floor(walks * 1_000), walks],
        np.round(walks).astype(np.float32),
    )
    return np.where(random.random(shape) < 0.002, random.choice([np.inf, -np.inf, -0.0, np.nan, 5e-324]), found)


def made_up(seed: int, grid: Grid, buckets: int, *, is_finest: bool) -> Statistics:
    """Statistics of shape (buckets, blocks, 64) of blocks that hold what their kind does; some samples are missing."""
    random = np.random.default_rng(seed)
    shape = (buckets, *grid.shape)
    found = Statistics.empty(shape)
    scraped = random.integers(0, 5, size=(buckets, len(grid.block_ids), 1))
    found.count[:] = np.where(random.random(shape) < 0.01, 0, np.broadcast_to(scraped, shape))
    found.count[:, :, random.integers(0, BLOCK_SERIES, 5)] = 0
    for line, is_counter in enumerate(grid.is_counter.tolist()):
        for name in names_of(is_counter=is_counter, is_finest=is_finest, is_output=grid.is_output):
            if name not in ("count", "last_at"):
                getattr(found, name)[:, line] = numbers(random, (buckets, BLOCK_SERIES))
            elif name == "last_at":
                found.last_at[:, line] = random.integers(0, 60_000, (buckets, 1))
    empty = found.count == 0
    for field in fields(found):
        if field.name != "count":
            getattr(found, field.name)[empty] = 0 if field.name == "last_at" else np.nan
    return found


def stored(statistics: Statistics, grid: Grid, seed: int) -> Rollups:
    """The statistics by bucket, as rollups that are not stored yet."""
    random = np.random.default_rng(seed)
    found = {}
    for place in range(len(statistics.count)):
        one = statistics[place]
        slots = np.where(one.count > 0, random.integers(1, 9, grid.shape), 0)  # as outputs without inputs have none
        due = slots.max(axis=1) if grid.is_output else random.integers(0, 5, len(grid.block_ids))
        none = np.zeros(len(grid.block_ids), dtype=np.int8)
        found[SPAN + place * timedelta(minutes=1)] = Stored(one, none, due, slots if grid.is_output else None)
    return found


def write(connection: Connection, tier: TierEntry, grid: Grid, rollups: Rollups) -> None:
    changed = [Changed(bucket, one, (one.statistics.count > 0).any(axis=1)) for bucket, one in rollups.items()]
    write_rollups(connection, TierRows(tier, grid), changed)


def read(connection: Connection, tier: TierEntry, grid: Grid) -> Rollups:
    return read_rollups(connection, tier, grid=grid, since=SPAN - timedelta(hours=4), until=END)


def make_partitions(connection: Connection, tier: TierEntry) -> None:
    for one in (tier.partitions, *tier.sealed_partitions):
        partitions.ensure(connection, one, since=SPAN, until=END)


def seal_all(connection: Connection, tier: TierEntry, grid: Grid) -> int:
    sealed = seal(connection, tier, grid=grid, start=SPAN)
    forms.note_sealed(connection, tier.id, SHARD, until=END, now=START)
    return sealed


def assert_same(found: Rollups, expected: Rollups) -> None:
    """Every rollup with samples has the same bits and slots, and there are no others."""
    wanted = {bucket: one for bucket, one in expected.items() if one.statistics.count.any()}
    assert list(found) == list(wanted)
    for bucket, one in found.items():
        assert not one.statistics.differs(wanted[bucket].statistics).any()
        for field in fields(Statistics):
            given = one.statistics.count > 0
            mine, theirs = (getattr(each.statistics, field.name)[given] for each in (one, wanted[bucket]))
            assert (mine.view(np.int64) == theirs.view(np.int64))[mine == mine].all(), field.name  # noqa: PLR0124 - not NaN
        is_there = (wanted[bucket].statistics.count > 0).any(axis=1)
        assert (one.has_row == is_there).all()
        assert (one.slots_due[is_there] == wanted[bucket].slots_due[is_there]).all()
        given = one.statistics.count > 0
        assert (one.slots_of_cells[given] == wanted[bucket].slots_of_cells[given]).all()


def counted(connection: Connection, table: str) -> int:
    return int(connection.execute(text(f"SELECT count(*) FROM aggregator.{table}")).scalar_one())  # noqa: S608 - ours


KINDS = st.lists(st.booleans(), min_size=BLOCKS, max_size=BLOCKS)
PROFILE = settings(
    max_examples=examples(8),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def grid_of(is_counter: list[bool], *, is_output: bool) -> Grid:
    return Grid(np.arange(1, BLOCKS + 1), np.array(is_counter), is_output=is_output)


@PROFILE
@given(seed=st.integers(0, 2**32), is_counter=KINDS, is_output=st.booleans(), buckets=st.sampled_from([1, 7, 240]))
def test_what_is_sealed_reads_as_it_was(
    installation: Installation, seed: int, is_counter: list[bool], *, is_output: bool, buckets: int
) -> None:
    grid = grid_of(is_counter, is_output=is_output)
    with undone(installation) as connection:
        (tier,) = catalog.read_installation(connection).finest
        make_partitions(connection, tier)
        expected = stored(made_up(seed, grid, buckets, is_finest=True), grid, seed)
        write(connection, tier, grid, expected)
        assert_same(read(connection, tier, grid), expected)
        sealed = seal_all(connection, tier, grid)
        assert sealed == sum(np.count_nonzero(one.statistics.count) for one in expected.values())
        assert counted(connection, "rollup") == 0
        assert_same(read(connection, tier, grid), expected)


@PROFILE
@given(seed=st.integers(0, 2**32), is_counter=KINDS, is_output=st.booleans())
def test_what_is_written_after_sealing_is_there_once(
    installation: Installation, seed: int, is_counter: list[bool], *, is_output: bool
) -> None:
    grid = grid_of(is_counter, is_output=is_output)
    random = np.random.default_rng(seed)
    with undone(installation) as connection:
        (tier,) = catalog.read_installation(connection).finest
        make_partitions(connection, tier)
        expected = stored(made_up(seed, grid, 30, is_finest=True), grid, seed)
        late = random.choice(list(expected), size=8, replace=False)
        write(connection, tier, grid, {bucket: one for bucket, one in expected.items() if bucket not in late})
        seal_all(connection, tier, grid)
        write(connection, tier, grid, {bucket: expected[bucket] for bucket in late[:4]})
        assert_same(read(connection, tier, grid), {k: v for k, v in expected.items() if k not in late[4:]})
        seal_all(connection, tier, grid)
        write(connection, tier, grid, {bucket: expected[bucket] for bucket in late[4:]})
        again = stored(made_up(seed + 1, grid, 30, is_finest=True), grid, seed + 1)
        changed = []
        for bucket, one in read(connection, tier, grid).items():
            lines = (again[bucket].statistics.count > 0).any(axis=1) & (random.random(BLOCKS) < 0.2)
            fresh = again[bucket]
            expected[bucket] = _mixed(expected[bucket], fresh, lines)
            now = Stored(
                expected[bucket].statistics,
                one.form,
                expected[bucket].slots_due,
                expected[bucket].slots,
            )
            changed.append(Changed(bucket, now, lines))
        write_rollups(connection, TierRows(tier, grid), changed)
        assert_same(read(connection, tier, grid), expected)
        seal_all(connection, tier, grid)
        assert counted(connection, "rollup") == 0
        assert_same(read(connection, tier, grid), expected)


def _mixed(before: Stored, after: Stored, lines: np.ndarray) -> Stored:
    """The rollups with some lines replaced."""
    whole = lines[:, None]
    slots = None
    if before.slots is not None and after.slots is not None:
        slots = np.where(whole, after.slots, before.slots)
    return Stored(
        after.statistics.where(np.broadcast_to(whole, after.statistics.count.shape), before.statistics),
        before.form,
        np.where(lines, after.slots_due, before.slots_due),
        slots,
    )


def test_a_coarser_tier_is_sealed_without_the_time_of_the_last_sample(installation: Installation) -> None:
    grid = grid_of([False, True, True], is_output=False)
    with undone(installation) as connection:
        tier = next(one for one in catalog.read_installation(connection).tiers if one.name == "5m")
        start, end = tier.spans.bounds(SPAN) if tier.spans else (SPAN, END)
        for one in (tier.partitions, *tier.sealed_partitions):
            partitions.ensure(connection, one, since=start, until=end)
        statistics = made_up(3, grid, 252, is_finest=False)
        expected = {
            start + place * timedelta(minutes=5): one for place, one in enumerate(stored(statistics, grid, 3).values())
        }
        write(connection, tier, grid, expected)
        seal(connection, tier, grid=grid, start=start)
        forms.note_sealed(connection, tier.id, SHARD, until=end, now=START)
        assert counted(connection, "rollup") == 0
        assert_same(read_rollups(connection, tier, grid=grid, since=start, until=end), expected)
        assert counted(connection, "clock WHERE last_at_base IS NOT NULL") == 0


def test_a_range_reads_only_its_own_buckets(installation: Installation) -> None:
    grid = grid_of([False, True, False], is_output=False)
    with undone(installation) as connection:
        (tier,) = catalog.read_installation(connection).finest
        make_partitions(connection, tier)
        expected = stored(made_up(5, grid, 240, is_finest=True), grid, 5)
        write(connection, tier, grid, expected)
        seal_all(connection, tier, grid)
        since, until = SPAN + timedelta(minutes=17), SPAN + timedelta(minutes=31)
        found = read_rollups(connection, tier, grid=grid, since=since, until=until)
        assert_same(found, {bucket: one for bucket, one in expected.items() if since <= bucket < until})


def test_what_has_no_spans_is_not_sealed(installation: Installation) -> None:
    grid = grid_of([False, True, False], is_output=False)
    with undone(installation) as connection:
        (tier,) = catalog.read_installation(connection).finest
        months = TierEntry(tier.id, "months", type(tier.ladder)(timedelta(days=30), months=1), tier.retention, 1)
        with pytest.raises(ValueError, match="not sealed"):
            seal(connection, months, grid=grid, start=SPAN)
