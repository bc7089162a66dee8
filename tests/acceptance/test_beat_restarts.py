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

from aggregator.rollups.buckets import floor_to
from tests.acceptance.machines import BEAT, Machine, Running, machines, rows, wait_for

pytestmark = pytest.mark.acceptance

SECONDS_VARIABLE = "AGGREGATOR_TEST_SECONDS"
LIFE_SECONDS = 7
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
FRAMES = """
    SELECT count(*), count(DISTINCT at) FROM aggregator.sample_frame AS f
    JOIN aggregator.targets AS t ON t.id = f.target_id JOIN aggregator.sources AS o ON o.id = t.source_id
    WHERE o.name = 'often'
"""


def duration() -> timedelta:
    """How long beat is restarted; the full trial takes 300 seconds."""
    return timedelta(seconds=float(os.environ.get(SECONDS_VARIABLE, "22")))


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


def collected_slots(database_url: str) -> list[datetime]:
    found = rows(database_url, COLLECTED)
    assert all(claims == 1 and outcome == [1] for _, claims, outcome in found), found
    return [slot for slot, _, _ in found]


def live_a_while(beat: Running, *, is_killed: bool) -> None:
    threading.Event().wait(LIFE_SECONDS)
    assert beat.process.poll() is None, beat.log.read_text()
    if is_killed:
        beat.kill()
    else:
        beat.stop()


def test_a_beat_that_is_restarted_every_seven_seconds_misses_no_slot(machine: Machine, database_url: str) -> None:
    interval = begin(machine, interval_seconds=5)
    deadline = time.monotonic() + duration().total_seconds()
    for number in itertools.count():
        beat = machine.start(*BEAT)
        live_a_while(beat, is_killed=number % 2 == 0)
        if time.monotonic() > deadline:
            break
    machine.start(*BEAT)
    last = floor_to(datetime.now(UTC), interval)
    wait_for(database_url, "SELECT max(slot) >= %s FROM aggregator.collections WHERE finished_at IS NOT NULL", last)
    slots = collected_slots(database_url)
    wanted = [slots[0] + place * interval for place in range(len(slots))]
    # A beat takes a second or two to start, so none is due and over within one restart.
    assert slots == wanted
    assert rows(database_url, "SELECT sum(slots_missed) FROM aggregator.shard_slots") == [(0,)]
    count, distinct = rows(database_url, FRAMES)[0]
    assert count == distinct == len(slots)


def test_two_beats_collect_every_slot_once(machine: Machine, database_url: str) -> None:
    interval = begin(machine, interval_seconds=1)
    for _ in range(2):
        machine.start(*BEAT)
    wait_for(database_url, "SELECT count(*) >= 8 FROM aggregator.collections WHERE finished_at IS NOT NULL")
    for beat in machine.started[1:]:
        beat.stop()
    slots = collected_slots(database_url)
    assert slots == [slots[0] + place * interval for place in range(len(slots))]
    count, distinct = rows(database_url, FRAMES)[0]
    assert count == distinct
    assert count >= len(slots) - 1  # the newest slot may be in the making
