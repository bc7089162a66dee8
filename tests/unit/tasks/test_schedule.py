"""The schedule is aligned to the clock: each slot once, whatever the clock and the restarts of beat do."""

from __future__ import annotations

import itertools
import pickle
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import time_machine
from celery.beat import BeatLazyFunc
from hypothesis import given
from hypothesis import strategies as st

from aggregator.config.load import load_settings
from aggregator.config.model import Settings
from aggregator.rollups.buckets import floor_to
from aggregator.tasks.schedule import MOST_WAKE_INTERVAL, ClockSchedule, beat_schedule

START = datetime(2026, 3, 29, 0, 59, 50, tzinfo=UTC)  # a minute before a clock change in Europe
ANY_RUN = datetime(1970, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)

intervals = st.sampled_from([1, 5, 15, 30, 60, 90, 300, 3_600, 86_400]).map(lambda seconds: timedelta(seconds=seconds))
fractions = st.floats(min_value=0.1, max_value=0.9)


def wake_times(schedule: ClockSchedule, since: datetime, span: timedelta) -> list[tuple[datetime, str]]:
    """When a beat that does as it is told sends which slot, in a span of time."""
    sent = []
    with time_machine.travel(since, tick=False) as clock:
        while (now := datetime.now(UTC)) < since + span:
            is_due, seconds = schedule.is_due(ANY_RUN)
            if is_due:
                sent.append((now, schedule.take_slot()))
            # Beat sleeps a little shorter than it is told, and never longer than its maximum.
            clock.shift(timedelta(seconds=max(min(seconds, 60.0) - 0.01, 0.002)))
    return sent


@given(interval=intervals, fraction=fractions)
def test_every_slot_is_sent_and_none_twice_within_its_wake(interval: timedelta, fraction: float) -> None:
    schedule = ClockSchedule(interval, interval * fraction)
    sent = wake_times(schedule, START, max(3 * min(interval, 10 * MINUTE), 5 * MINUTE / 2))
    slots = [datetime.fromisoformat(slot) for _, slot in sent]
    assert slots == sorted(slots)
    seen = sorted(set(slots))
    assert seen == [seen[0] + place * interval for place in range(len(seen))]
    for at, slot in zip((at for at, _ in sent), slots, strict=True):
        assert slot == floor_to(at - schedule.offset, interval)
    gaps = [after - before for (before, _), (after, _) in itertools.pairwise(sent)]
    assert all(gap <= min(interval, MOST_WAKE_INTERVAL) + timedelta(seconds=1) for gap in gaps)
    if interval <= MOST_WAKE_INTERVAL:
        assert len(slots) == len(set(slots))


@given(interval=intervals, fraction=fractions, lived=st.lists(st.floats(min_value=0, max_value=200), max_size=6))
def test_a_beat_that_begins_anew_sends_the_slot_that_is_running(
    interval: timedelta, fraction: float, lived: list[float]
) -> None:
    offset = interval * fraction
    with time_machine.travel(START, tick=False) as clock:
        for seconds in lived:
            schedule = ClockSchedule(interval, offset)
            assert schedule.is_due(ANY_RUN)[0]
            assert schedule.take_slot() == floor_to(datetime.now(UTC) - offset, interval).isoformat()
            assert not schedule.is_due(ANY_RUN)[0]
            clock.shift(timedelta(seconds=seconds))


@given(interval=intervals, fraction=fractions, jump=st.integers(min_value=-100_000, max_value=100_000))
def test_a_clock_that_jumps_loses_no_slot_from_then_on(interval: timedelta, fraction: float, jump: int) -> None:
    offset = interval * fraction
    schedule = ClockSchedule(interval, offset)
    with time_machine.travel(START, tick=False) as clock:
        schedule.take_slot()
        clock.shift(timedelta(seconds=jump))
        is_due, seconds = schedule.is_due(ANY_RUN)
        assert is_due == (abs(jump) > 0 and schedule._wake(datetime.now(UTC)) != schedule._sent)
        assert 0 <= seconds <= min(interval, MOST_WAKE_INTERVAL).total_seconds()
        if is_due:
            assert schedule.take_slot() == floor_to(datetime.now(UTC) - offset, interval).isoformat()
        assert not schedule.is_due(ANY_RUN)[0]


def test_the_last_run_of_beat_does_not_matter() -> None:
    with time_machine.travel(START, tick=False):
        for last_run in (ANY_RUN, START, START + timedelta(days=400)):
            assert ClockSchedule(MINUTE).is_due(last_run)[0]


def test_a_daily_slot_is_sent_every_minute_and_due_although_beat_restarts_daily() -> None:
    schedule = ClockSchedule(timedelta(days=1), timedelta(hours=9))
    day = datetime(2026, 3, 2, 9, tzinfo=UTC)
    sent = wake_times(schedule, day, 3 * MINUTE)
    assert {slot for _, slot in sent} == {"2026-03-02T00:00:00+00:00"}
    assert len(sent) == 3


def test_it_is_compared_and_pickled_by_what_it_does() -> None:
    schedule = ClockSchedule(MINUTE, timedelta(seconds=7))
    assert schedule == pickle.loads(pickle.dumps(schedule))  # noqa: S301 - our own
    assert hash(schedule) == hash(ClockSchedule(MINUTE, timedelta(seconds=7)))
    assert schedule != ClockSchedule(MINUTE)
    assert schedule != "another thing"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(environment={"HOME": str(tmp_path), "AGGREGATOR_NAMESPACE": "ns"})


def test_every_job_has_an_entry_with_its_slot_its_queue_and_an_end(settings: Settings) -> None:
    entries = beat_schedule(settings)
    assert set(entries) == {
        *(f"collect:{source.name}" for source in settings.sources),
        "rollup",
        "summarize",
        "maintain",
        "verify",
    }
    for entry in entries.values():
        assert isinstance(entry["kwargs"]["slot"], BeatLazyFunc)
        assert entry["options"]["queue"].startswith("ns.")
        assert entry["options"]["ignore_result"] is True
        assert 0 < entry["options"]["expires"] <= MOST_WAKE_INTERVAL.total_seconds()
        schedule = entry["schedule"]
        assert 0.1 <= schedule.offset / schedule.interval <= 0.9
