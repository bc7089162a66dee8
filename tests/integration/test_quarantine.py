"""Jobs that lose their process: counted in a row, set aside, tried again after longer and longer pauses."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from sqlalchemy import insert, select

from aggregator.stages.rollup import Rollup
from aggregator.storage import claims, registry, tables
from aggregator.storage.engine import Connection, Database
from aggregator.storage.losses import MOST_ROWS, record_loss
from aggregator.storage.quarantine import MOST_LOSSES, Job, Losses, all_losses, losses_of, quarantined
from aggregator.tasks.guard import Admission, ShardWatch, admit
from tests.installation import Installation

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
WAKE = Job("wake", "scripted")
KILLED = "signal 9 (SIGKILL)"
MINUTE = timedelta(minutes=1)


def lose(installation: Installation, job: Job = WAKE, *, times: int = 1, at: datetime = START) -> Losses:
    for _ in range(times):
        found = installation.database.run(partial(record_loss, job=job, reason=KILLED, at=at, now=at))
    assert found is not None
    return found


def admitted(installation: Installation, job: Job = WAKE, *, at: datetime) -> Admission | None:
    return installation.database.run(partial(admit, job=job, now=at))


def test_a_job_without_losses_runs_and_leaves_nothing_behind(installation: Installation) -> None:
    assert admitted(installation, at=START) == Admission(WAKE, 0)
    assert installation.database.run(all_losses) == []


def test_the_third_loss_in_a_row_sets_a_job_aside(installation: Installation) -> None:
    for losses in range(1, MOST_LOSSES):
        assert lose(installation).quarantined_at is None
        assert admitted(installation, at=START) == Admission(WAKE, losses)
    assert lose(installation).quarantined_at == START
    assert admitted(installation, at=START + 4 * MINUTE) is None
    assert [str(found.job) for found in installation.database.run(quarantined)] == ["wake:scripted"]


def test_a_success_in_between_begins_the_count_anew(installation: Installation) -> None:
    for _ in range(5):
        lose(installation, times=MOST_LOSSES - 1)
        admission = admitted(installation, at=START)
        assert admission is not None
        admission.end(installation.database, is_success=True, now=START)
    assert installation.database.run(all_losses) == []


def test_a_run_that_found_nothing_to_do_proves_nothing(installation: Installation) -> None:
    lose(installation, times=MOST_LOSSES)
    admission = admitted(installation, at=START + 6 * MINUTE)
    assert admission is not None
    admission.end(installation.database, is_success=False, now=START + 6 * MINUTE)
    found = installation.database.run(partial(losses_of, job=WAKE))
    assert found is not None
    assert (found.losses, found.quarantined_at) == (MOST_LOSSES, START)
    assert admitted(installation, at=START + 6 * MINUTE) is not None


def test_pauses_double_from_five_minutes_to_an_hour(installation: Installation) -> None:
    at, seen = START, []
    lose(installation, times=MOST_LOSSES - 1, at=at)
    for _ in range(6):
        found = lose(installation, at=at)
        assert found.retry_at is not None
        seen.append((found.retry_at - at) / MINUTE)
        assert admitted(installation, at=found.retry_at - timedelta(seconds=1)) is None
        at = found.retry_at
        assert admitted(installation, at=at) is not None
    assert seen == [5, 10, 20, 40, 60, 60]


def test_what_serves_everything_is_left_alone_for_five_minutes_at_the_most(installation: Installation) -> None:
    maintain = Job("maintain")
    lose(installation, maintain, times=MOST_LOSSES - 1)
    pauses = [(lose(installation, maintain).retry_at or START) - START for _ in range(6)]
    assert pauses[0] == timedelta(seconds=30)
    assert max(pauses) == 5 * MINUTE


def test_of_many_who_ask_at_once_one_gets_the_try(installation: Installation) -> None:
    lose(installation, times=MOST_LOSSES)
    databases = [Database.connect(installation.url, application=f"asker {number}") for number in range(4)]
    at = START + 6 * MINUTE
    with ThreadPoolExecutor(len(databases)) as pool:
        answers = list(pool.map(lambda database: database.run(partial(admit, job=WAKE, now=at)), databases))
    for database in databases:
        database.dispose()
    assert [answer for answer in answers if answer is not None] == [Admission(WAKE, MOST_LOSSES, is_try=True)]


@pytest.mark.parametrize(
    "job",
    [Job("wake", "none"), Job("collect", "scripted:99"), Job("rollup", "x"), Job("maintain", "x"), Job("announce")],
    ids=str,
)
def test_a_loss_of_a_job_that_does_not_exist_is_not_counted(installation: Installation, job: Job) -> None:
    assert installation.database.run(partial(record_loss, job=job, reason=KILLED, at=START, now=START)) is None
    assert installation.database.run(all_losses) == []


def test_the_table_stays_small_whatever_the_broker_is_told(installation: Installation) -> None:
    rows = [
        {
            "task": "summarize",
            "subject": str(number),
            "losses": 1,
            "reason": KILLED,
            "first_lost_at": START,
            "last_lost_at": START,
        }
        for number in range(MOST_ROWS)
    ]
    installation.database.run(lambda connection: connection.execute(insert(tables.job_losses), rows))
    assert installation.database.run(partial(record_loss, job=WAKE, reason=KILLED, at=START, now=START)) is None


def claim(installation: Installation, shard_id: int, slot: datetime) -> claims.Claim:
    def work(connection: Connection) -> claims.Claim | None:
        return claims.claim(
            connection,
            shard_id=shard_id,
            slot=slot,
            target_ids=[1],
            node="test",
            now=slot,
            lease=timedelta(seconds=30),
            by_hand=False,
        )

    claimed = installation.database.run(work)
    assert claimed is not None
    return claimed


def maintained(installation: Installation, now: datetime) -> list[tuple[str, int]]:
    from aggregator.stages.maintain import Maintain  # noqa: PLC0415 - only these tests need it

    Maintain(installation.database, "test").run(clock=lambda: now)
    return [(str(found.job), found.losses) for found in installation.database.run(all_losses)]


def test_collections_that_died_with_their_whole_worker_count_as_losses(installation: Installation) -> None:
    shard_id = installation.database.run(lambda found: registry.ensure_intake(found, installation.source_id))
    for number in range(MOST_LOSSES):
        claim(installation, shard_id, START + number * MINUTE)
    assert maintained(installation, START + 10 * MINUTE) == [(f"collect:scripted:{shard_id}", MOST_LOSSES)]
    (found,) = installation.database.run(quarantined)
    assert found.retry_at == START + 15 * MINUTE
    assert maintained(installation, START + 11 * MINUTE) == [(f"collect:scripted:{shard_id}", MOST_LOSSES)]


def test_lost_collections_count_neither_before_a_success_nor_twice(installation: Installation) -> None:
    shard_id = installation.database.run(lambda found: registry.ensure_intake(found, installation.source_id))
    claim(installation, shard_id, START)
    done = claim(installation, shard_id, START + MINUTE)
    ended = {1: claims.Ended(is_ok=True, duration_seconds=0.1, samples=1)}
    installation.database.run(lambda found: claims.record(found, done, ended, now=START + MINUTE))
    claim(installation, shard_id, START + 2 * MINUTE)
    lose(installation, Job("collect", f"scripted:{shard_id}"), at=START + 2 * MINUTE + timedelta(seconds=12))
    assert maintained(installation, START + 10 * MINUTE) == [(f"collect:scripted:{shard_id}", 1)]


def test_a_shard_that_is_set_aside_does_not_stop_the_others(installation: Installation) -> None:
    first, _ = installation.targets(2)
    installation.collect_two(first, START, g=1.0)
    installation.now = START + 2 * MINUTE
    shard_id = installation.database.run(lambda found: found.execute(select(tables.dirty.c.shard_id)).scalars().first())
    assert shard_id is not None
    lose(installation, Job("rollup", str(shard_id)), times=MOST_LOSSES, at=installation.now)

    def roll_up() -> int:
        watch = ShardWatch.of(installation.database, lambda: installation.now)
        rows = Rollup(installation.database, "test").run(
            lambda: installation.now, budget=timedelta(seconds=10), only=None, watch=watch
        )
        watch.finish()
        return rows

    assert roll_up() == 0
    assert installation.marks()
    installation.now += 6 * MINUTE
    assert roll_up() > 0
    assert installation.database.run(all_losses) == []
