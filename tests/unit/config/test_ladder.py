"""Which tier is built from which: only from one whose buckets fill its own without rest."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.config.duration import MONTH, format_duration, months_in, parse_duration
from aggregator.config.ladder import day_divisor, divides, longest_bucket, parents
from aggregator.config.model import Tier
from aggregator.rollups.buckets import Ladder
from tests.effort import examples

ZONES = ["UTC", "Europe/Berlin", "Asia/Kathmandu", "Asia/Kolkata", "Australia/Lord_Howe", "Africa/Monrovia"]
STEPS = ["1m", "4m", "5m", "7m", "10m", "15m", "20m", "30m", "40m", "1h", "2h", "7h", "12h", "16h", "36h", "84h"]
DAYS = ["1d", "2d", "3d", "1w", "9d", "2w", "3w", "1mo", "2mo", "3mo", "12mo"]
SINCE, UNTIL = datetime(1970, 1, 1, tzinfo=UTC), datetime(2050, 1, 1, tzinfo=UTC)


def tier(step: str, zone: str = "UTC", name: str = "t") -> Tier:
    return Tier(name=name, step=parse_duration(step), retention=timedelta(days=3_650), timezone=zone)


def ladder(one: Tier) -> Ladder:
    return Ladder(one.step, one.timezone, months=one.months)


def tiers() -> st.SearchStrategy[Tier]:
    local = st.builds(tier, st.sampled_from(DAYS), st.sampled_from(ZONES))
    return st.one_of(local, st.builds(tier, st.sampled_from(STEPS)))


@settings(max_examples=examples(15))  # each walks through eighty years
@given(tiers(), tiers())
def test_a_tier_divides_another_if_every_bucket_of_that_one_begins_with_one_of_its_own(
    finer: Tier, coarser: Tier
) -> None:
    if finer.step >= coarser.step:
        return
    buckets = ladder(finer)
    begins = all(buckets.start_of(start) == start for start in ladder(coarser).starts(SINCE, UNTIL) if start >= SINCE)
    assert divides(finer, coarser) <= begins, "a bucket would be cut"
    if finer.timezone == coarser.timezone or not buckets.is_calendar:
        # 16h begins with every other day; that it fits weeks of two days by chance is not worth a rule.
        by_chance = timedelta(days=1) % finer.step and finer.step % timedelta(days=1)
        assert by_chance or divides(finer, coarser) == begins


@pytest.mark.parametrize(
    ("zone", "divisor"),
    [
        ("UTC", "1d"),
        ("Europe/Berlin", "1h"),
        ("America/New_York", "1h"),
        ("Asia/Kolkata", "30m"),
        ("Australia/Lord_Howe", "30m"),
        ("Asia/Kathmandu", "15m"),
        ("Pacific/Kiritimati", "40m"),
        ("Africa/Monrovia", "4m"),
    ],
)
def test_the_days_of_a_zone_are_divided_by_what_divides_all_its_midnights(zone: str, divisor: str) -> None:
    assert format_duration(day_divisor(zone)) == divisor


def test_each_tier_is_built_from_the_coarsest_that_divides_it() -> None:
    ladder_of_two_zones = (
        tier("1m", name="1m"),
        tier("5m", name="5m"),
        tier("1h", name="1h"),
        tier("1d", name="1d"),
        tier("1d", "Europe/Berlin", name="1d_berlin"),
        tier("1d", "Asia/Kathmandu", name="1d_nepal"),
        tier("1w", "Europe/Berlin", name="1w_berlin"),
        tier("1w", "America/New_York", name="1w_new_york"),
        tier("1mo", "Europe/Berlin", name="1mo_berlin"),
        tier("1mo", name="1mo"),
        tier("12mo", name="12mo"),
    )
    found = {name: parent and parent.name for name, parent in parents(ladder_of_two_zones).items()}
    assert found == {
        "1m": None,
        "5m": "1m",
        "1h": "5m",
        "1d": "1h",
        "1d_berlin": "1h",
        "1d_nepal": "5m",
        "1w_berlin": "1d_berlin",
        "1w_new_york": "1h",
        "1mo_berlin": "1d_berlin",
        "1mo": "1d",
        "12mo": "1mo",
    }


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Antarctica/Vostok"])
@pytest.mark.parametrize("step", DAYS)
def test_no_bucket_is_longer_than_the_longest(step: str, zone: str) -> None:
    one = tier(step, zone)
    starts = list(ladder(one).starts(SINCE, UNTIL))
    assert max(end - start for start, end in itertools.pairwise(starts)) <= longest_bucket(one)


def test_months_are_written_and_read_as_mo() -> None:
    assert parse_duration("3mo") == 3 * MONTH
    assert [months_in(parse_duration(text)) for text in ("1mo", "12mo", "1m", "30d", "1y", "365d")] == [
        1,
        12,
        0,
        0,
        0,
        0,
    ]
    assert [format_duration(parse_duration(text)) for text in ("1mo", "18mo", "1y", "1m", "1w")] == [
        "1mo",
        "18mo",
        "1y",
        "1m",
        "7d",
    ]
