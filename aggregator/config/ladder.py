"""The ladder of tiers: which finer tier each one is built from."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import date, datetime, time, timedelta
from functools import cache
from zoneinfo import ZoneInfo

from aggregator.config.model import Tier

_ZERO = timedelta(0)
_ONE_DAY = timedelta(days=1)
_ONE_WEEK = timedelta(days=7)
_ONE_MINUTE = timedelta(minutes=1)
#: 1970 began on a Thursday, and weeks begin on Monday.
_FIRST_MONDAY = timedelta(days=4)
_LONGEST_MONTH = timedelta(days=31)
_MONTHS_A_YEAR = 12
_LONGEST_YEAR = timedelta(days=366)
#: By how much a local day may be longer than 24 hours: the longest since 1970 had 31 (Antarctica/Vostok, 1994).
_LONGER_DAY = timedelta(hours=7)
#: A zone's rules are looked at day by day over these years: before, no sample is accepted; after, they repeat.
_YEARS = range(1970, 2100)


def parents(tiers: Iterable[Tier]) -> dict[str, Tier | None]:
    """For each tier's name, the coarsest finer tier whose buckets divide its own; None: it is built from samples."""
    ordered = sorted(tiers, key=lambda tier: tier.step)
    return {tier.name: _parent(tier, ordered) for tier in ordered}


def _parent(tier: Tier, ordered: list[Tier]) -> Tier | None:
    finer = [other for other in ordered if other.step < tier.step and divides(other, tier)]
    return finer[-1] if finer else None


def divides(finer: Tier, coarser: Tier) -> bool:
    """Whether every bucket of the coarser tier is made of whole buckets of the finer one."""
    if finer.step % _ONE_DAY == _ZERO or finer.months:
        return finer.timezone == coarser.timezone and _divides_in_zone(finer, coarser)
    if is_local(coarser) or coarser.months:
        return _ONE_DAY % finer.step == _ZERO and day_divisor(coarser.timezone) % finer.step == _ZERO
    return coarser.step % finer.step == _ZERO and _origin(coarser) % finer.step == _ZERO


def _divides_in_zone(finer: Tier, coarser: Tier) -> bool:
    """As `divides`, for days, weeks and months of the same zone."""
    if finer.months:
        return coarser.months > 0 and coarser.months % finer.months == 0
    if coarser.months:
        return finer.step == _ONE_DAY
    return coarser.step % finer.step == _ZERO and (_origin(coarser) - _origin(finer)) % finer.step == _ZERO


def _origin(tier: Tier) -> timedelta:
    """How long after 1970-01-01T00:00 the tier's buckets are counted from."""
    return _FIRST_MONDAY if tier.step % _ONE_WEEK == _ZERO else _ZERO


def is_local(tier: Tier) -> bool:
    """Whether the tier's buckets begin at the midnight of a zone other than UTC."""
    return tier.timezone != "UTC" and (tier.months > 0 or tier.step % _ONE_DAY == _ZERO)


def longest_bucket(tier: Tier) -> timedelta:
    """How long a bucket of the tier may be, rounded up."""
    longest = tier.step
    if tier.months:
        years, months = divmod(tier.months, _MONTHS_A_YEAR)
        longest = years * _LONGEST_YEAR + months * _LONGEST_MONTH
    return longest + (_LONGER_DAY if is_local(tier) else _ZERO)


@cache
def day_divisor(timezone: str) -> timedelta:
    """The longest step whose multiples (since 1970-01-01T00:00Z) all days of a zone begin at; a day in UTC.

    In whole minutes, as the buckets are: see `first_instant` in aggregator/rollups/periods.py.
    """
    zone = ZoneInfo(timezone)
    days = range(date(_YEARS.start, 1, 1).toordinal(), date(_YEARS.stop, 1, 1).toordinal())
    offsets = {datetime.combine(date.fromordinal(day), time(), zone).utcoffset() or _ZERO for day in days}
    minutes = (-offset // _ONE_MINUTE for offset in offsets)
    return math.gcd(_ONE_DAY // _ONE_MINUTE, *minutes) * _ONE_MINUTE
