"""Two full rollup rows fit a page: one more array per row, and everything that is kept costs twice as much."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Connection, text

from aggregator.rollups.statistics import Statistics
from aggregator.storage import catalog
from aggregator.storage.blocks import BLOCK_SERIES, Grid
from aggregator.storage.rollup_forms import write_rollups
from aggregator.storage.rollup_matrix import Stored
from aggregator.storage.rollup_rows import Changed, TierRows
from tests.installation import Installation, settings_for
from tests.templates import BroughtUp, installed

NOW = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)
ENDED = datetime(2026, 3, 1, 11, 58, tzinfo=UTC)
MOST_ROW_BYTES = 4_080


@pytest.fixture
def installation(brought_up: BroughtUp, tmp_path: Path) -> Iterator[Installation]:
    with installed(brought_up, NOW, settings_for(tmp_path)) as made:
        yield made


def full_statistics(blocks: int) -> Statistics:
    """Every statistic of every place, of numbers that do not compress."""
    generator = np.random.default_rng(7)
    values = {field.name: generator.normal(size=(blocks, BLOCK_SERIES)) for field in fields(Statistics)}
    return Statistics(**values | {name: np.full((blocks, BLOCK_SERIES), 40_000 + 3) for name in ("count", "last_at")})


def write_full_rows(connection: Connection, *, is_counter: bool, is_output: bool = False) -> None:
    finest = catalog.read_installation(connection).finest[0]
    grid = Grid(np.array([1, 2]), np.full(2, is_counter), is_output=is_output)
    rollups = Stored(full_statistics(2), np.zeros(2, dtype=np.int8), np.full(2, 4))
    changed = Changed(ENDED, rollups, np.ones(2, dtype=np.bool_))
    assert write_rollups(connection, TierRows(finest, grid), [changed]) == 2


@pytest.mark.parametrize("is_output", [False, True], ids=["of targets", "of a rule"])
@pytest.mark.parametrize("is_counter", [False, True], ids=["gauges", "counters"])
def test_two_full_rows_of_the_finest_tier_share_a_page(
    installation: Installation,
    is_counter: bool,  # noqa: FBT001 - pytest passes parameters by position
    is_output: bool,  # noqa: FBT001 - as above
) -> None:
    installation.database.run(
        lambda connection: write_full_rows(connection, is_counter=is_counter, is_output=is_output)
    )
    with installation.database.engine.connect() as connection:
        rows = connection.execute(
            text("SELECT ctid::text AS place, pg_column_size(r.*) AS bytes FROM aggregator.rollup AS r ORDER BY ctid")
        ).all()
        toasted = connection.execute(
            text(
                "SELECT coalesce(sum(pg_relation_size(reltoastrelid)), 0) FROM pg_class"
                " WHERE relname LIKE 'rollup_1m_%' AND reltoastrelid <> 0"
            )
        ).scalar_one()
    assert [row.place for row in rows] == ["(0,1)", "(0,2)"]
    assert max(row.bytes for row in rows) <= MOST_ROW_BYTES
    assert toasted == 0


def test_values_are_stored_as_they_are_for_a_subscript_to_cost_nothing(installation: Installation) -> None:
    installation.database.run(lambda connection: write_full_rows(connection, is_counter=False))
    with installation.database.engine.connect() as connection:
        sizes = connection.execute(
            text("SELECT DISTINCT pg_column_size(sum), pg_column_compression(sum) FROM aggregator.rollup")
        ).all()
    assert [tuple(row) for row in sizes] == [(64 * 8 + 24, None)]
