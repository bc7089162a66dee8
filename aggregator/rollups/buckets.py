"""Buckets: half-open intervals by epoch arithmetic, or by the calendar of a zone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property

from aggregator.rollups.periods import Periods, origin

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ONE_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Ladder:
    """The buckets of one tier: a step, and the zone at whose midnight a day begins.

    In UTC, and for steps that are no whole days, buckets are multiples of the step since 1970-01-01T00:00Z, whole weeks
    since the Monday after. Whole days of another zone begin at local midnight, and have 23 or 25 hours when its clock
    changes. A step of `months` begins on the first of a month; `step` is then its average length.
    """

    step: timedelta
    timezone: str = "UTC"
    months: int = field(default=0, kw_only=True)

    @property
    def is_calendar(self) -> bool:
        """Whether buckets follow the calendar of a zone, and so differ in length."""
        return self.months > 0 or (self.timezone != "UTC" and self.step % _ONE_DAY == timedelta(0))

    def start_of(self, instant: datetime) -> datetime:
        """The start (UTC) of the bucket that holds `instant`; a naive instant is refused with ValueError."""
        require_aware(instant)
        if not self.is_calendar:
            first = origin(self.step)
            return floor_to(instant - first, self.step) + first
        periods = self._periods
        return periods.start(periods.holding(instant))

    def end_of(self, start: datetime) -> datetime:
        """The end (UTC, exclusive) of the bucket that starts at `start`."""
        if not self.is_calendar:
            return start + self.step
        periods = self._periods
        return periods.start(periods.holding(start) + 1)

    def starts(self, since: datetime, until: datetime) -> Iterator[datetime]:
        """The starts (UTC) of the buckets that reach into the half-open interval, oldest first."""
        if self.is_calendar:
            yield from self._periods.starts(since, until)
            return
        start = self.start_of(since)
        while start < until:
            yield start
            start += self.step

    @cached_property
    def _periods(self) -> Periods:
        return Periods(self.timezone, days=0 if self.months else self.step // _ONE_DAY, months=self.months)


def require_aware(instant: datetime) -> None:
    """Refuse an instant without a zone: guessing one has cost others whole days."""
    if instant.tzinfo is None:
        raise ValueError(f"{instant.isoformat()} has no time zone")


def floor_to(instant: datetime, step: timedelta) -> datetime:
    """The newest multiple of `step` since the epoch that is not after `instant` (UTC)."""
    require_aware(instant)
    return EPOCH + (instant - EPOCH) // step * step


def slots_due(start: datetime, end: datetime, *, interval: timedelta) -> int:
    """How many multiples of `interval` since the epoch lie in the half-open interval from `start` to `end`."""

    def before(instant: datetime) -> int:
        return -((EPOCH - instant) // interval)  # the ceiling: slots strictly before the instant

    return before(end) - before(start)


@dataclass(frozen=True)
class SlotGrid:
    """When the slots of a shard are collected: `offset` after each multiple of `interval`."""

    interval: timedelta
    offset: timedelta

    def due(self, start: datetime, end: datetime) -> int:
        """How many slots are collected in the half-open interval from `start` to `end`."""
        return slots_due(start - self.offset, end - self.offset, interval=self.interval)


def milliseconds(instant: datetime) -> int:
    """Milliseconds since the epoch, rounded down."""
    return (instant - EPOCH) // timedelta(milliseconds=1)


def from_milliseconds(value: int) -> datetime:
    """The instant (UTC) of a number of milliseconds since the epoch."""
    return EPOCH + timedelta(milliseconds=value)


def offset_in(interval: timedelta, fraction: float) -> timedelta:
    """A fixed place between 10 and 90 % of an interval for a fraction in [0, 1): off the edges of buckets."""
    if not 0 <= fraction < 1 or not math.isfinite(fraction):
        raise ValueError(f"{fraction} is not in [0, 1)")
    return interval * (0.1 + 0.8 * fraction)


def fraction_of(name: str) -> float:
    """A fixed number in [0, 1) for a name: the same in every process and for ever."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=6).digest(), "big") / 2**48


def offset_of(name: str, interval: timedelta) -> timedelta:
    """How long after the start of a slot the job of this name is due."""
    return offset_in(interval, fraction_of(name))
