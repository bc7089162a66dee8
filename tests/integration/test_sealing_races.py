"""A frame that is written while its span is being sealed, and who reads both meanwhile: each frame is there once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import text

from aggregator.storage import forms, frames, ledger, sample_sealing
from aggregator.storage.engine import Connection, Database, StorageError, is_lock_timeout, transaction
from aggregator.storage.frames import Frame, Written
from tests.installation import Installation
from tests.sealable import SPANS, Sealable
from tests.sessions import PATIENCE, wait_for_blocked

START = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
AT = SPANS[0] + timedelta(minutes=90)
STEP = timedelta(seconds=15)
Found = dict[datetime, float]


@pytest.fixture
def sealable(installation: Installation) -> Sealable:
    """Targets, of which the first has two frames in a closed span."""
    made = Sealable.make(installation)
    installation.database.run(lambda connection: write(connection, made, {AT: 1.0, AT + STEP: 2.0}))
    return made


def write(connection: Connection, sealable: Sealable, values: Found) -> Written:
    """As a collection writes."""
    target_id, (map_id, *_) = next(iter(sealable.maps.items()))
    frames.hold_partitions(connection)
    frames.lock_targets(connection, [target_id])
    given = [Frame(target_id, map_id, at, np.array([value])) for at, value in values.items()]
    return frames.write_frames(connection, given, received_at=START)


def seal(connection: Connection, sealable: Sealable) -> int | None:
    return sample_sealing.seal_some(connection, shard_id=sealable.shard_id, start=SPANS[0], now=START)


def stored(database: Database) -> list[tuple[datetime, float]]:
    """Every row of the view `samples`."""
    statement = text("SELECT time, value FROM aggregator.samples ORDER BY 1, 2")
    return [tuple(row) for row in database.run(lambda connection: connection.execute(statement).all())]


def counts(database: Database) -> tuple[int, int]:
    """Open frames, and sealed rows."""
    statement = text(
        "SELECT (SELECT count(*) FROM aggregator.sample_frame), (SELECT count(*) FROM aggregator.sample_sealed)"
    )
    return tuple(database.run(lambda connection: connection.execute(statement).one()))


@pytest.mark.parametrize(
    ("late", "added", "differing", "forms_left"),
    [
        ({AT: 1.0}, 0, 0, (0, 1)),
        ({AT: 1.0, AT + 2 * STEP: 3.0}, 1, 0, (1, 1)),
        ({AT: 7.0}, 0, 1, (2, 0)),
        ({AT + STEP: 2.5, AT + 2 * STEP: 3.0}, 1, 1, (3, 0)),
    ],
)
def test_a_writer_waits_for_who_seals_and_finds_what_is_sealed(
    installation: Installation,
    other: Database,
    sealable: Sealable,
    late: Found,
    *,
    added: int,
    differing: int,
    forms_left: tuple[int, int],
) -> None:
    with ThreadPoolExecutor(1) as collector:
        with transaction(installation.database.engine) as connection:
            assert seal(connection, sealable) == 2
            writing = collector.submit(other.run, lambda found: write(found, sealable, late))
            wait_for_blocked(installation.url)
        written = writing.result(timeout=PATIENCE.total_seconds())
    assert (written.added, sum(written.differing.values())) == (added, differing)
    assert counts(other) == forms_left
    assert stored(other) == sorted(({AT: 1.0, AT + STEP: 2.0} | late).items())
    other.run(lambda found: seal(found, sealable))
    assert counts(other)[0] == 0
    assert stored(other) == sorted(({AT: 1.0, AT + STEP: 2.0} | late).items())


@pytest.mark.parametrize("late", [{AT: 1.0}, {AT: 7.0}, {AT + 2 * STEP: 3.0}])
def test_who_seals_leaves_a_target_that_is_being_written(
    installation: Installation, other: Database, sealable: Sealable, late: Found
) -> None:
    with transaction(installation.database.engine) as connection:
        write(connection, sealable, late)
        assert other.run(lambda found: seal(found, sealable)) is None
    expected = sorted(({AT: 1.0, AT + STEP: 2.0} | late).items())
    assert other.run(lambda found: seal(found, sealable)) == len(expected)
    assert counts(other) == (0, 1)
    assert stored(other) == expected


def test_who_seals_leaves_a_shard_that_is_being_rolled_up(
    installation: Installation, other: Database, sealable: Sealable
) -> None:
    with transaction(installation.database.engine) as connection:
        assert ledger.lock_shard(connection, sealable.shard_id)
        assert other.run(lambda found: seal(found, sealable)) is None
    assert other.run(lambda found: seal(found, sealable)) == 2


def test_a_writer_who_changes_what_is_sealed_waits_for_the_rollup_that_reads_it(
    installation: Installation, other: Database, sealable: Sealable
) -> None:
    other.run(lambda found: seal(found, sealable))
    with ThreadPoolExecutor(1) as collector:
        with transaction(installation.database.engine) as connection:
            assert ledger.lock_shard(connection, sealable.shard_id)
            writing = collector.submit(other.run, lambda found: write(found, sealable, {AT: 7.0}))
            wait_for_blocked(installation.url)
            target_ids = sorted(sealable.maps)
            read = frames.read_frames(connection, target_ids=target_ids, since=SPANS[0], until=SPANS[1])
            assert [frame.values.tolist() for frame in read] == [[1.0], [2.0]]
        assert writing.result(timeout=PATIENCE.total_seconds()).differing
    assert stored(other) == [(AT, 7.0), (AT + STEP, 2.0)]


def test_nothing_changes_its_form_while_somebody_holds_the_forms(
    installation: Installation, other: Database, sealable: Sealable
) -> None:
    with transaction(installation.database.engine) as connection:
        forms.hold(connection)
        with pytest.raises(StorageError) as raised:
            other.run(lambda found: seal(found, sealable))
        assert is_lock_timeout(raised.value)
        target_ids = sorted(sealable.maps)
        assert len(frames.read_columns(connection, target_ids=target_ids, since=SPANS[0], until=SPANS[1])) == 2
    assert counts(other) == (2, 0)
    assert other.run(lambda found: seal(found, sealable)) == 2
