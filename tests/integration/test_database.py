"""What the connection survives: a COPY that fails is retried as every other statement, and nothing stale is used."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text

from aggregator.collectors.protocol import Batch, Collected, Target
from aggregator.exposition.series import Kind, SeriesKey
from aggregator.rollups.buckets import from_milliseconds, milliseconds
from aggregator.stages.collect import places
from aggregator.storage import frames, ledger, open_frames, tables
from aggregator.storage.engine import Connection
from tests.installation import Installation, series_key
from tests.sessions import session

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
STEP = timedelta(seconds=15)
GAUGE = series_key("g", 0, Kind.GAUGE)


def end_session(connection: Connection) -> None:
    """End the server's process behind a connection, as a restart of PostgreSQL does."""
    pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
    url = connection.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with session(url) as other:
        other.run(lambda found: found.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid}))


def interrupt_once(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[bool]:
    """Let the connection die right before the first call of a function whose first argument it is."""
    called: list[bool] = []
    original = getattr(owner, name)

    def interrupted(connection: Connection, *arguments: Any, **named: Any) -> Any:
        if not called:
            called.append(True)
            end_session(connection)
        return original(connection, *arguments, **named)

    monkeypatch.setattr(owner, name, interrupted)
    return called


@pytest.mark.parametrize("place", [(open_frames, "copy_in"), (frames, "lock_targets"), (ledger, "mark")])
def test_a_collection_whose_connection_dies_while_it_is_stored_is_stored_all_the_same(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, place: tuple[Any, str]
) -> None:
    (target,) = installation.targets(1)
    interrupted = interrupt_once(monkeypatch, *place)
    assert installation.collect(target, {milliseconds(START): {GAUGE: 1.0}}).samples == 1
    assert interrupted
    assert [row["value"] for row in installation.rows("samples").values()] == [1.0]


def test_a_rollup_whose_connection_dies_in_a_copy_is_done_all_the_same(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    (target,) = installation.targets(1)
    installation.collect(target, {milliseconds(START): {GAUGE: 1.0}})
    installation.now += timedelta(minutes=2)
    interrupted = interrupt_once(monkeypatch, frames, "copy_out")
    assert installation.roll_up() == 2
    assert interrupted


def test_more_batches_than_are_remembered_are_stored(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    (target,) = installation.targets(1)
    monkeypatch.setattr(places, "MOST_TUPLES", 3)
    samples = {milliseconds(START) + place: {series_key(f"m{place}", 0, Kind.GAUGE): 1.0} for place in range(10)}
    assert installation.collect(target, samples).samples == 10
    assert len(installation.rows("samples")) == 10


def batch(at: int, values: dict[SeriesKey, float]) -> Batch:
    return Batch(from_milliseconds(at), tuple(values), np.array(list(values.values())))


def test_batches_of_one_instant_keep_their_series_apart_where_a_new_frame_map_begins(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aggregator.storage.series.CHURN_ALLOWANCE", 0)
    (target,) = installation.targets(1)
    at = milliseconds(START)
    for round_of in range(3):  # many series that are gone: the next new one begins a new map
        installation.collect(
            target, {at + round_of: {series_key(f"r{round_of}_{n}", 0, Kind.GAUGE): 9.0 for n in range(4)}}
        )
    known = batch(at + 1_000, {series_key("r1_0", 0, Kind.GAUGE): 1.0, series_key("r1_3", 0, Kind.GAUGE): 3.0})
    store_batches(installation, target, (known,))
    again = Batch(from_milliseconds(at + 2_000), known.keys, known.values)
    new = batch(at + 2_000, {series_key("new", 0, Kind.GAUGE): 5.0})
    store_batches(installation, target, (again, new))
    with installation.database.engine.connect() as connection:
        assert len(connection.execute(tables.frame_maps.select()).all()) > 1
    rows = {key[0]: row["value"] for key, row in installation.rows("samples").items() if key[2] == again.at}
    assert rows == {"r1_0": 1.0, "r1_3": 3.0, "new": 5.0}


def store_batches(installation: Installation, target: Target, batches: tuple[Batch, ...]) -> None:
    installation.collect_all([Collected(target, batches[0].at, 0.01, batches, samples=len(batches))])


def test_the_isolation_is_read_committed_whatever_the_database_s_default_is(database_url: str) -> None:
    with session(database_url) as database:
        database.run(lambda connection: connection.execute(text(_SERIALIZABLE)))
    with session(database_url) as database:
        found = database.run(lambda connection: connection.execute(text(_ISOLATIONS)).one())
    assert tuple(found) == ("read committed", "serializable")


_SERIALIZABLE = """
    DO $$ BEGIN
        EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = serializable', current_database());
    END $$
"""
_ISOLATIONS = "SELECT current_setting('transaction_isolation'), current_setting('default_transaction_isolation')"
