"""Beat only wakes: killed again and again it misses no slot, and two of them collect none twice."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from aggregator.embedded.process import wait_until
from aggregator.rollups.buckets import floor_to
from tests.acceptance.machines import BEAT, PATIENCE, Machine, Running, machines, rows, unfinished, wait_for

pytestmark = pytest.mark.acceptance

SECONDS_VARIABLE = "AGGREGATOR_TEST_SECONDS"
#: How long a beat lives after it has woken something.
REST_SECONDS = 2
CONFIGURATION = """
[[sources]]
name = "often"
kind = "host"
interval = "{seconds}s"
keep = ["node_load1"]
"""
COLLECTED = """
    SELECT slot, claims, outcome FROM aggregator.collections AS c JOIN aggregator.shards AS s ON s.id = c.shard_id
    JOIN aggregator.sources AS o ON o.id = s.source_id WHERE o.name = 'often' AND NOT c.by_hand ORDER BY slot
"""
WOKEN = "SELECT coalesce(max(woken_at) > %s, false) FROM aggregator.wakes WHERE job = 'collect:often'"
FRAMES = """
    SELECT count(*), count(DISTINCT at) FROM aggregator.sample_frame AS f
    JOIN aggregator.targets AS t ON t.id = f.target_id JOIN aggregator.sources AS o ON o.id = t.source_id
    WHERE o.name = 'often'
"""


def duration() -> timedelta:
    """How long beat is restarted; the full trial takes 300 seconds."""
    return timedelta(seconds=float(os.environ.get(SECONDS_VARIABLE, "16")))


@pytest.fixture
def machine(database_url: str, broker_url: str, tmp_path: Path) -> Iterator[Machine]:
    made = Machine(
        tmp_path / "home", "here", {"AGGREGATOR_DATABASE_URL": database_url, "AGGREGATOR_BROKER_URL": broker_url}
    )
    with machines(made):
        yield made


def begin(machine: Machine, *, interval_seconds: int) -> timedelta:
    machine.configure(CONFIGURATION.format(seconds=interval_seconds))
    machine.run("aggregator", "db", "migrate")
    machine.start_worker()
    return timedelta(seconds=interval_seconds)


def collected_slots(database_url: str, broker_url: str) -> list[datetime]:
    """The slots that were collected, each at its first attempt, once nothing is under way any more."""
    assert wait_until(lambda: is_idle(broker_url), PATIENCE)
    wait_for(database_url, "SELECT count(*) = 0 FROM aggregator.collections WHERE finished_at IS NULL")
    found = rows(database_url, COLLECTED)
    assert all(claims == 1 and outcome == [1] for _, claims, outcome in found), found
    return [slot for slot, _, _ in found]


def is_idle(broker_url: str) -> bool:
    """Whether nothing is left of what beat has sent, nor of what came of that."""
    return unfinished(broker_url, "collect", "node.here") == 0


def start_beat(machine: Machine, database_url: str, broker_url: str) -> tuple[Running, datetime]:
    """A beat that has woken the source, and when that was at the latest."""
    assert wait_until(lambda: is_idle(broker_url), PATIENCE)  # what comes now is its own
    began = datetime.now(UTC)
    beat = machine.start(*BEAT)
    wait_for(database_url, WOKEN, began)
    return beat, datetime.now(UTC)


def live_a_while(beat: Running, *, is_killed: bool) -> datetime:
    """Gives until when it was there."""
    threading.Event().wait(REST_SECONDS)
    assert beat.process.poll() is None, beat.said()
    until = datetime.now(UTC)
    if is_killed:
        beat.kill()
    else:
        beat.stop()
    return until


def test_a_beat_that_is_restarted_again_and_again_misses_no_slot(
    machine: Machine, database_url: str, broker_url: str
) -> None:
    interval = begin(machine, interval_seconds=5)
    deadline = time.monotonic() + duration().total_seconds()
    away: list[tuple[datetime, datetime]] = []
    beat, _ = start_beat(machine, database_url, broker_url)
    for number in itertools.count():
        since = live_a_while(beat, is_killed=number % 2 == 0)
        beat, until = start_beat(machine, database_url, broker_url)
        away.append((since, until))
        if time.monotonic() > deadline:
            break
    last = floor_to(datetime.now(UTC), interval)
    wait_for(database_url, "SELECT max(slot) >= %s FROM aggregator.collections WHERE finished_at IS NOT NULL", last)
    beat.stop()
    slots = collected_slots(database_url, broker_url)
    due = [slots[0] + place * interval for place in range(round((slots[-1] - slots[0]) / interval) + 1)]
    assert set(slots) <= set(due)
    assert len(slots) == len(set(slots))
    missing = sorted(set(due) - set(slots))
    # A beat takes a second or two to start, and sends the running slot at once: none is due and over meanwhile.
    assert [slot for slot in missing if not was_over(slot, interval, away)] == [], away
    assert rows(database_url, "SELECT sum(slots_missed) FROM aggregator.shard_slots") == [(len(missing),)]
    count, distinct = rows(database_url, FRAMES)[0]
    assert count == distinct == len(slots)


def was_over(slot: datetime, interval: timedelta, away: list[tuple[datetime, datetime]]) -> bool:
    """Whether no beat was there for all of a slot, on a machine that took longer to start one."""
    return any(until - since > interval and since - 2 * interval < slot < until for since, until in away)


def test_two_beats_collect_every_slot_once(machine: Machine, database_url: str, broker_url: str) -> None:
    interval = begin(machine, interval_seconds=1)
    for _ in range(2):
        machine.start(*BEAT)
    wait_for(database_url, "SELECT count(*) >= 8 FROM aggregator.collections WHERE finished_at IS NOT NULL")
    for beat in machine.started[1:]:
        beat.stop()
    slots = collected_slots(database_url, broker_url)
    # A message lives for a second, which may pass while two of them start; then its slot counts as missed.
    missed = rows(database_url, "SELECT sum(slots_missed) FROM aggregator.shard_slots")[0][0]
    assert len(slots) == len(set(slots))
    assert len(slots) + missed == (slots[-1] - slots[0]) / interval + 1
    count, distinct = rows(database_url, FRAMES)[0]
    assert count == distinct == len(slots)
