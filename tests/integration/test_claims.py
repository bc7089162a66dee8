"""Claims of slots on a real server: one owner at a time, losers return at once, and slots that nobody claimed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from aggregator.errors import LeaseLostError
from aggregator.storage import claims, registry, tables
from aggregator.storage.claims import Claim, Ended
from aggregator.storage.engine import Connection, Database, transaction
from tests.installation import Installation
from tests.sessions import PATIENCE, wait_for_blocked

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
STEP = timedelta(seconds=15)
LEASE = timedelta(seconds=30)


def claim_start(installation: Installation, *, at: datetime = START) -> Callable[[Connection], Claim | None]:
    """What claims the slot `START` of two targets at an instant."""

    def work(connection: Connection) -> Claim | None:
        return claims.claim(
            connection,
            shard_id=registry.ensure_intake(connection, installation.source_id),
            slot=START,
            target_ids=[1, 2],
            node="a",
            now=at,
            lease=LEASE,
            by_hand=False,
        )

    return work


def test_of_two_claims_at_once_one_wins_and_the_other_returns(installation: Installation, other: Database) -> None:
    with ThreadPoolExecutor(1) as second:
        with transaction(installation.database.engine) as connection:
            won = claim_start(installation)(connection)
            losing = second.submit(other.run, claim_start(installation))
            wait_for_blocked(installation.url)
        assert losing.result(timeout=PATIENCE.total_seconds()) is None
    assert won is not None
    assert not won.is_taken_over


def test_an_expired_lease_is_taken_over_with_what_is_left_and_the_first_owner_is_refused(
    installation: Installation, other: Database
) -> None:
    first = installation.database.run(claim_start(installation))
    assert first is not None
    ended = Ended(is_ok=True, duration_seconds=0.1, samples=5)
    assert not installation.database.run(lambda found: claims.record(found, first, {1: ended}, now=START))
    assert other.run(claim_start(installation, at=START + LEASE)) is None
    late = START + LEASE + timedelta(seconds=1)
    second = other.run(claim_start(installation, at=late))
    assert second is not None
    assert (second.target_ids, second.is_taken_over) == ((2,), True)
    with pytest.raises(LeaseLostError):
        installation.database.run(lambda found: claims.record(found, first, {2: ended}, now=late))
    assert other.run(lambda found: claims.record(found, second, {2: ended}, now=late))
    assert other.run(claim_start(installation, at=late + 2 * LEASE)) is None


def test_a_collection_that_was_lost_three_times_is_given_up(installation: Installation) -> None:
    taken = [installation.database.run(claim_start(installation, at=START + place * 2 * LEASE)) for place in range(5)]
    assert [one is not None for one in taken] == [True, True, True, False, False]


@pytest.mark.parametrize(
    ("slots", "missed"),
    [
        ([0, 1, 2, 3], 0),
        ([0, 1, 4, 5], 2),
        ([0, 3, 1, 2], 0),
        ([0, 3, 1], 1),
        ([5, 0], 0),
        ([0, 10, 11], 9),
    ],
)
def test_slots_missed_are_those_between_the_first_and_the_last_that_nobody_claimed(
    installation: Installation, slots: list[int], missed: int
) -> None:
    shard_id = installation.database.run(lambda found: registry.ensure_intake(found, installation.source_id))
    for slot in slots:
        at = START + slot * STEP
        installation.database.run(
            lambda found, at=at: claims.count_slot(found, shard_id=shard_id, slot=at, interval=STEP)
        )
    with installation.database.engine.connect() as connection:
        row = connection.execute(select(tables.shard_slots)).one()
    assert row.slots_missed == missed
    assert (row.first_slot, row.last_slot) == (START + min(slots) * STEP, START + max(slots) * STEP)


def test_a_slot_that_was_lost_with_its_worker_is_counted_as_missed_once(installation: Installation) -> None:
    shard_id = installation.database.run(lambda found: registry.ensure_intake(found, installation.source_id))
    first = installation.database.run(claim_start(installation))
    assert first is not None
    installation.database.run(lambda found: claims.count_slot(found, shard_id=shard_id, slot=START, interval=STEP))
    ended = START + LEASE + claims.GIVE_UP_AFTER
    assert len(installation.database.run(lambda found: claims.give_up_lost(found, now=ended))) == 0
    lost_at = ended + STEP
    assert len(installation.database.run(lambda found: claims.give_up_lost(found, now=lost_at))) == 1
    assert len(installation.database.run(lambda found: claims.give_up_lost(found, now=lost_at))) == 0
    assert installation.database.run(claim_start(installation, at=lost_at)) is None
    with installation.database.engine.connect() as connection:
        assert connection.execute(select(tables.shard_slots.c.slots_missed)).scalar_one() == 1
