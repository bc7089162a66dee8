"""Buckets, slots and offsets."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.rollups.buckets import Ladder, floor_to, offset_of, slots_due

INSTANTS = st.datetimes(datetime(1960, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - bounds
STEPS = st.sampled_from([1, 5, 60, 300, 3_600, 86_400]).map(lambda seconds: timedelta(seconds=seconds))
ZONES = st.sampled_from(
    ["Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "America/Sao_Paulo"]
)


@given(INSTANTS, STEPS)
def test_a_bucket_holds_its_instant_and_starts_at_a_multiple_of_its_step(instant: datetime, step: timedelta) -> None:
    ladder = Ladder(step)
    start = ladder.start_of(instant)
    assert start <= instant < ladder.end_of(start)
    assert (start.timestamp() % step.total_seconds()) == 0


@given(INSTANTS, ZONES)
def test_a_local_day_starts_at_local_midnight_and_the_next_one_follows_without_a_gap(
    instant: datetime, zone: str
) -> None:
    ladder = Ladder(timedelta(days=1), zone)
    start = ladder.start_of(instant)
    end = ladder.end_of(start)
    assert start <= instant < end
    assert ladder.start_of(end) == end
    assert ladder.start_of(end - timedelta(microseconds=1)) == start


@pytest.mark.parametrize(("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25), ("2026-06-01", 24)])
def test_a_day_in_berlin_has_as_many_hours_as_its_clock(day: str, hours: int) -> None:
    ladder = Ladder(timedelta(days=1), "Europe/Berlin")
    start = ladder.start_of(datetime.fromisoformat(f"{day}T12:00:00").replace(tzinfo=ZoneInfo("Europe/Berlin")))
    assert ladder.end_of(start) - start == timedelta(hours=hours)


def test_a_naive_instant_is_refused() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        floor_to(datetime(2026, 1, 1), timedelta(minutes=1))  # noqa: DTZ001 - that is the point


@given(INSTANTS, st.integers(1, 5_000), st.integers(1, 400))
def test_slots_due_are_the_multiples_of_the_interval_in_the_bucket(start: datetime, length: int, interval: int) -> None:
    start = start.replace(microsecond=0)
    begin = round(start.timestamp())
    expected = sum(1 for second in range(begin, begin + length) if second % interval == 0)
    end = start + timedelta(seconds=length)
    assert slots_due(start, end, interval=timedelta(seconds=interval)) == expected


@given(st.text(min_size=1), STEPS)
def test_an_offset_is_fixed_and_keeps_off_the_edges_of_the_interval(name: str, interval: timedelta) -> None:
    offset = offset_of(name, interval)
    assert offset == offset_of(name, interval)
    assert interval * 0.1 <= offset <= interval * 0.9
