"""Whole transactions are tried again where that helps, a few times; what is cut short leaves nothing behind."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, text

from aggregator.exposition.series import Kind
from aggregator.storage import claims, engine, registry, tables
from aggregator.storage.engine import (
    ATTEMPTS,
    Connection,
    Database,
    StorageError,
    is_lock_timeout,
    is_statement_timeout,
    make_engine,
    transaction,
)
from tests.installation import LONG, Installation, series_key
from tests.slots import claim_slot, collect_slot, store

START = datetime(2026, 3, 1, 8, tzinfo=UTC)
INTERVAL = timedelta(seconds=15)
GAUGE = series_key("g", 0, Kind.GAUGE)
SHORT = timedelta(milliseconds=200)
_SLOW = text(
    """
    CREATE FUNCTION aggregator.slow() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_sleep(30); RETURN NEW; END';
    CREATE TRIGGER slow BEFORE INSERT ON aggregator.dirty FOR EACH STATEMENT EXECUTE FUNCTION aggregator.slow()
    """
)
_AS_BEFORE = text("DROP TRIGGER slow ON aggregator.dirty; DROP FUNCTION aggregator.slow()")
_TIMEOUTS = text(
    "SELECT current_setting('statement_timeout'), current_setting('lock_timeout'),"
    " current_setting('idle_in_transaction_session_timeout')"
)


@pytest.mark.parametrize("was_committed", [True, False])
def test_a_claim_whose_commit_was_lost_is_claimed_all_the_same(
    installation: Installation,
    was_committed: bool,  # noqa: FBT001 - a parameter
) -> None:
    (target,) = installation.targets(1)
    token = uuid.uuid4()

    def claim() -> claims.Claim | None:
        def work(connection: Connection) -> claims.Claim | None:
            shard_id = registry.ensure_intake(connection, installation.source_id)
            return claims.claim(
                connection,
                shard_id=shard_id,
                slot=START,
                target_ids=[target.id],
                node="test",
                now=START,
                lease=LONG,
                by_hand=False,
                token=token,
            )

        return installation.database.run(work)

    first = claim() if was_committed else None
    again = claim()
    assert again is not None
    assert (again.token, again.target_ids, again.is_known) == (token, (target.id,), was_committed)
    assert first is None or not first.is_known


def test_a_lock_that_is_not_to_be_had_is_waited_for_a_few_times(
    installation: Installation, other: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "LOCK_TIMEOUT", SHORT)
    monkeypatch.setattr(engine, "FIRST_PAUSE_SECONDS", 0.01)
    (target,) = installation.targets(1)
    row = select(tables.targets.c.id).where(tables.targets.c.id == target.id).with_for_update()
    attempts = []

    def work(connection: Connection) -> None:
        attempts.append(1)
        connection.execute(row)

    with transaction(other.engine) as holder:
        holder.execute(row)
        with pytest.raises(StorageError) as raised:
            installation.database.run(work)
    assert is_lock_timeout(raised.value)
    assert len(attempts) == ATTEMPTS
    installation.database.run(work)


def test_a_statement_that_takes_too_long_is_not_tried_again_and_leaves_nothing(installation: Installation) -> None:
    (target,) = installation.targets(1)
    collect_slot(installation, target, START, {GAUGE: 1.0})
    slot = START + INTERVAL
    claimed = claim_slot(installation, target, slot, now=slot, node="web1", lease=INTERVAL)
    patient = installation.database
    patient.run(lambda connection: connection.execute(_SLOW))
    hurried = Database(make_engine(installation.url, application="test", statement_timeout=SHORT))
    installation.store.database, installation.now = hurried, slot
    with pytest.raises(StorageError) as raised:
        store(installation, target, claimed, {GAUGE: 2.0})
    assert is_statement_timeout(raised.value)
    hurried.dispose()
    patient.run(lambda connection: connection.execute(_AS_BEFORE))
    assert len(installation.rows("samples")) == 1
    # Once the lease is over the slot is somebody else's, and everything goes on.
    installation.store.database, installation.now = patient, slot + 2 * INTERVAL
    again = claim_slot(installation, target, slot, now=installation.now, node="web2", lease=INTERVAL)
    assert again.is_taken_over
    store(installation, target, again, {GAUGE: 2.0})
    assert len(installation.rows("samples")) == 2


def test_timeouts_are_of_the_transaction_and_not_of_the_session(installation: Installation) -> None:
    inside = installation.database.run(lambda connection: tuple(connection.execute(_TIMEOUTS).one()))
    assert inside == ("1min", "5s", "1min")
    with installation.database.engine.connect() as connection:
        assert tuple(connection.execute(_TIMEOUTS).one()) == ("0", "0", "0")
