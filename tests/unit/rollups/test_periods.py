"""Days, weeks and months of zones whose clocks change at midnight, or whose rules did."""

from __future__ import annotations

import calendar
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.rollups.buckets import Ladder
from aggregator.rollups.periods import first_instant
from tests.zones import CALENDAR_STEPS, ODD, in_zone

INSTANTS = st.datetimes(datetime(1970, 1, 2), datetime(2099, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - bounds
MICROSECOND = timedelta(microseconds=1)


@st.composite
def ladders_and_instants(draw: st.DrawFn) -> tuple[Ladder, datetime]:
    """Half of the instants within three days of an odd one, to the second."""
    zone = draw(st.sampled_from(sorted(ODD)))
    step = draw(st.sampled_from(sorted(CALENDAR_STEPS)))
    ladder = in_zone(step, zone)
    if draw(st.booleans()):
        return ladder, draw(INSTANTS)
    odd = datetime.fromisoformat(draw(st.sampled_from(ODD[zone]))).replace(tzinfo=UTC)
    return ladder, odd + timedelta(seconds=draw(st.integers(-259_200, 259_200)))


@given(ladders_and_instants())
def test_every_instant_lies_in_one_bucket_and_buckets_follow_without_gap(drawn: tuple[Ladder, datetime]) -> None:
    ladder, instant = drawn
    start = ladder.start_of(instant)
    end = ladder.end_of(start)
    assert start <= instant < end
    assert ladder.start_of(start) == start
    assert ladder.start_of(end - MICROSECOND) == start
    assert ladder.start_of(end) == end
    assert ladder.end_of(ladder.start_of(start - MICROSECOND)) == start
    assert list(ladder.starts(start - MICROSECOND, end + MICROSECOND))[1:] == [start, end]


@given(ladders_and_instants())
def test_a_bucket_begins_when_its_first_day_is_first_shown(drawn: tuple[Ladder, datetime]) -> None:
    """The oracle walks minute by minute; from a day before, since no clock was ever set back by more."""
    ladder, instant = drawn
    zone = ZoneInfo(ladder.timezone)
    start = ladder.start_of(instant)
    # Seconds of local mean time (Africa/Monrovia) only come into sight within the minute.
    day = (start + timedelta(seconds=59)).astimezone(zone).date()
    shown = (start - timedelta(minutes=minutes) + timedelta(seconds=59) for minutes in range(1, 1_441))
    assert all(instant.astimezone(zone).date() < day for instant in shown)
    assert first_instant(day, zone) == start


@given(ladders_and_instants())
def test_weeks_begin_on_monday_and_months_on_the_first(drawn: tuple[Ladder, datetime]) -> None:
    ladder, instant = drawn
    zone = ZoneInfo(ladder.timezone)
    start = ladder.start_of(instant)
    if ladder.timezone.startswith("Pacific/"):
        return  # the day itself may be one that the zone left out
    day = (start + timedelta(seconds=59)).astimezone(zone).date()
    if ladder.months:
        assert day.day == 1
        assert ((day.year - 1970) * 12 + day.month - 1) % ladder.months == 0
    elif ladder.step % timedelta(days=7) == timedelta(0):
        assert day.weekday() == calendar.MONDAY
    else:
        assert (day - date(1970, 1, 1)) % ladder.step == timedelta(0)


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("America/Sao_Paulo", "2018-11-04", 23),  # midnight does not exist: 00:00 became 01:00
        ("America/Sao_Paulo", "2019-02-16", 25),  # 24:00 became 23:00, for the last time
        ("America/Sao_Paulo", "2019-11-03", 24),
        ("America/Havana", "2026-11-01", 25),  # midnight comes twice: 01:00 became 00:00
        ("America/Havana", "2026-10-31", 24),
        ("America/St_Johns", "1988-10-29", 24),  # midnight comes twice: 00:01 became 22:01 of the day before
        ("America/St_Johns", "1988-10-30", 26),
        ("Asia/Pyongyang", "2018-05-04", 23.5),  # 23:30 became 24:00
        ("Asia/Pyongyang", "2015-08-14", 24.5),
        ("Europe/Volgograd", "2018-10-28", 23),
        ("Europe/Volgograd", "2020-12-27", 25),
        ("Australia/Lord_Howe", "2026-04-05", 24.5),
        ("Australia/Lord_Howe", "2026-10-04", 23.5),
        ("Asia/Kathmandu", "1986-01-01", 23.75),
        ("Africa/Monrovia", "1972-01-07", 23.25 + 1 / 60),  # from 00:44:30Z, as 00:44, to 00:00Z
        ("Pacific/Apia", "2011-12-29", 24),
        ("Pacific/Apia", "2011-12-31", 24),
        ("Pacific/Kwajalein", "1993-08-20", 24),
    ],
)
def test_a_day_is_as_long_as_its_clock_makes_it(zone: str, day: str, hours: float) -> None:
    noon = datetime.fromisoformat(f"{day}T12:00:00").replace(tzinfo=ZoneInfo(zone))
    ladder = Ladder(timedelta(days=1), zone)
    start = ladder.start_of(noon)
    assert start <= noon < ladder.end_of(start)
    assert ladder.end_of(start) - start == timedelta(hours=hours)


def test_the_day_that_samoa_left_out_is_no_bucket() -> None:
    zone = ZoneInfo("Pacific/Apia")
    ladder = Ladder(timedelta(days=1), "Pacific/Apia")
    starts = list(ladder.starts(datetime(2011, 12, 29, 12, tzinfo=UTC), datetime(2012, 1, 1, tzinfo=UTC)))
    assert [start.astimezone(zone).date().isoformat() for start in starts] == ["2011-12-29", "2011-12-31", "2012-01-01"]
    week = Ladder(timedelta(days=7), "Pacific/Apia").start_of(starts[0])
    assert Ladder(timedelta(days=7), "Pacific/Apia").end_of(week) - week == timedelta(days=6)


def test_months_and_years_are_those_of_the_calendar() -> None:
    starts = list(CALENDAR_STEPS["1mo"].starts(datetime(2024, 1, 31, tzinfo=UTC), datetime(2024, 3, 2, tzinfo=UTC)))
    assert [start.date().isoformat() for start in starts] == ["2024-01-01", "2024-02-01", "2024-03-01"]
    assert CALENDAR_STEPS["3mo"].start_of(datetime(2026, 6, 30, tzinfo=UTC)).date() == date(2026, 4, 1)
    assert CALENDAR_STEPS["12mo"].end_of(datetime(2024, 1, 1, tzinfo=UTC)).date() == date(2025, 1, 1)
