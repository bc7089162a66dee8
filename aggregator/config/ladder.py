"""The ladder of tiers: which finer tier each one is built from."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

from aggregator.config.model import Tier

_ZERO = timedelta(0)
_ONE_DAY = timedelta(days=1)
#: Offsets are looked at monthly over these years: rules change, and what is stored stays.
_YEARS = range(2000, 2041)


def parents(tiers: Iterable[Tier]) -> dict[str, Tier | None]:
    """For each tier's name, the coarsest finer tier whose buckets divide its own; None: it is built from samples."""
    ordered = sorted(tiers, key=lambda tier: tier.step)
    return {tier.name: _parent(tier, ordered) for tier in ordered}


def _parent(tier: Tier, ordered: list[Tier]) -> Tier | None:
    finer = [other for other in ordered if other.step < tier.step and divides(other, tier)]
    return finer[-1] if finer else None


def divides(finer: Tier, coarser: Tier) -> bool:
    """Whether every bucket of the coarser tier is made of whole buckets of the finer one."""
    if coarser.step % finer.step != _ZERO:
        return False
    if is_local(finer) or is_local(coarser):
        if is_local(finer):
            return finer.timezone == coarser.timezone
        return all(offset % finer.step == _ZERO for offset in _offsets(coarser.timezone))
    return True


def is_local(tier: Tier) -> bool:
    """Whether the tier's buckets begin at the midnight of a zone other than UTC."""
    return tier.timezone != "UTC" and tier.step % _ONE_DAY == _ZERO


@cache
def _offsets(timezone: str) -> frozenset[timedelta]:
    zone = ZoneInfo(timezone)
    months = (datetime(year, month, 1, tzinfo=UTC).astimezone(zone) for year in _YEARS for month in range(1, 13))
    return frozenset(offset for month in months if (offset := month.utcoffset()) is not None)
