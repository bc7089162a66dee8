"""Buckets: half-open intervals by epoch arithmetic, or from local midnight to local midnight."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ONE_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Ladder:
    """The buckets of one tier: a step, and the zone at whose midnight a day begins.

    In UTC, and for steps shorter than a day, buckets are multiples of the step since 1970-01-01T00:00Z. A step of whole
    days in another zone begins at local midnight; such a day has 23 or 25 hours when the clock changes.
    """

    step: timedelta
    timezone: str = "UTC"

    @property
    def is_local(self) -> bool:
        """Whether buckets follow the calendar of a zone instead of the epoch."""
        return self.timezone != "UTC" and self.step % _ONE_DAY == timedelta(0)

    def start_of(self, instant: datetime) -> datetime:
        """The start (UTC) of the bucket that holds `instant`; a naive instant is refused with ValueError."""
        require_aware(instant)
        if not self.is_local:
            return floor_to(instant, self.step)
        zone = ZoneInfo(self.timezone)
        days = self.step // _ONE_DAY
        ordinal = instant.astimezone(zone).date().toordinal()
        first = ordinal - (ordinal - EPOCH.date().toordinal()) % days
        return _midnight(date.fromordinal(first), zone)

    def end_of(self, start: datetime) -> datetime:
        """The end (UTC, exclusive) of the bucket that starts at `start`."""
        if not self.is_local:
            return start + self.step
        zone = ZoneInfo(self.timezone)
        first = start.astimezone(zone).date()
        return _midnight(first + self.step, zone)


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    """The first instant of a local day; where the clock skips midnight, that is the first one after the gap."""
    # Through UTC and back: a local time inside a gap comes out moved by the gap's length.
    return datetime.combine(day, time(), tzinfo=zone).astimezone(UTC)


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
