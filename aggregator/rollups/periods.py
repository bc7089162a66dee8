"""Days, weeks and months of a zone: where each one begins, whatever its clock does at midnight."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property
from zoneinfo import ZoneInfo

_FIRST_YEAR = 1970
_FIRST_DAY = date(_FIRST_YEAR, 1, 1).toordinal()
_MONTHS_A_YEAR = 12
_ONE_WEEK = timedelta(days=7)
#: 1970 began on a Thursday; weeks begin on Monday (ISO 8601).
_FIRST_MONDAY = timedelta(days=4)
_ZERO = timedelta(0)
_MIDNIGHT, _SECOND_MIDNIGHT = time(), time(fold=1)
#: To what the zones' changes are exact.
_SECOND = timedelta(seconds=1)


def origin(step: timedelta) -> timedelta:
    """How long after 1970-01-01T00:00 buckets of a step are counted from: whole weeks begin on a Monday."""
    return _FIRST_MONDAY if step % _ONE_WEEK == _ZERO else _ZERO


@dataclass(frozen=True)
class Periods:
    """Runs of so many days, or of so many months, of a zone; numbered, and tiling time without gap or overlap.

    Runs of months are counted from January 1970, runs of days from 1970-01-01, runs of weeks from the Monday after. A
    day that a zone leaves out is a period without length, which holds no instant.
    """

    timezone: str
    days: int = 0
    months: int = 0

    @cached_property
    def zone(self) -> ZoneInfo:
        """Whose clock it is."""
        return ZoneInfo(self.timezone)

    def start(self, number: int) -> datetime:
        """The first instant (UTC) of a period."""
        return first_instant(self._first_day(number), self.zone)

    def holding(self, instant: datetime) -> int:
        """The number of the period that holds an instant: the last one that starts at or before it."""
        number = self._number(instant.astimezone(self.zone).date())
        # A clock that is set back over midnight shows the day before once more; what has begun has begun.
        while self.start(number + 1) <= instant:
            number += 1
        while self.start(number) > instant:
            number -= 1
        return number

    def starts(self, since: datetime, until: datetime) -> Iterator[datetime]:
        """The starts (UTC) of the periods that reach into the half-open interval, oldest first, each once."""
        before = None
        for number in itertools.count(self.holding(since)):
            start = self.start(number)
            if start >= until:
                return
            if start != before:
                yield start
            before = start

    def _number(self, day: date) -> int:
        if self.months:
            return ((day.year - _FIRST_YEAR) * _MONTHS_A_YEAR + day.month - 1) // self.months
        return (day.toordinal() - self._origin) // self.days

    def _first_day(self, number: int) -> date:
        if self.months:
            years, months = divmod(number * self.months, _MONTHS_A_YEAR)
            return date(_FIRST_YEAR + years, months + 1, 1)
        return date.fromordinal(self._origin + number * self.days)

    @cached_property
    def _origin(self) -> int:
        return _FIRST_DAY + origin(timedelta(days=self.days)).days


def first_instant(day: date, zone: ZoneInfo) -> datetime:
    """The first instant (UTC) of a local day, in whole minutes.

    Midnight where there is one, the first of two, and the end of the gap where the clock leaves midnight out. Offsets
    with seconds are from the days of local mean time (since 1970: Africa/Monrovia, until 1972); such a midnight is
    moved back to the whole minute, so that tiers of minutes divide every day.
    """
    offset = datetime.combine(day, _MIDNIGHT, zone).utcoffset() or _ZERO
    other = datetime.combine(day, _SECOND_MIDNIGHT, zone).utcoffset() or _ZERO
    in_utc = datetime.combine(day, _MIDNIGHT, UTC)
    # In a gap fold 0 has the offset before it, which is the smaller one; at a repetition the larger (PEP 495).
    first = in_utc - offset if offset >= other else _end_of_gap(day, zone, after=in_utc - other, until=in_utc - offset)
    return first.replace(second=0)


def _end_of_gap(day: date, zone: ZoneInfo, *, after: datetime, until: datetime) -> datetime:
    """The first second in (after, until] that shows `day` or a later one."""
    while until - after > _SECOND:
        middle = after + (until - after) // _SECOND // 2 * _SECOND
        if middle.astimezone(zone).date() < day:
            after = middle
        else:
            until = middle
    return until
