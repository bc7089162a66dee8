"""What only shows when settings are seen together, such as tiers that do not divide."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aggregator.config.broker_tls import fault_of
from aggregator.config.duration import format_duration
from aggregator.config.fields import POSTGRESQL_SCHEMES
from aggregator.config.ladder import day_divisor, divides, is_local, longest_bucket

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from aggregator.config.entries import Entry
    from aggregator.config.environment import Given
    from aggregator.config.model import Settings, Summary, Tier
    from aggregator.errors import Fault

LONGEST_RETENTION = timedelta(days=365 * 1_000)
_DAYS_AS_A_YEAR = timedelta(days=365)
_ZERO = timedelta(0)
_HIGHEST_PORT = 65_535
_SCHEMES = {
    "database_url": POSTGRESQL_SCHEMES,
    "broker_url": ("amqp", "amqps", "pyamqp", "redis", "rediss", "redis+socket", "sentinel", "memory"),
    "cache_url": ("redis", "rediss", "unix"),
}
_LISTENERS = ("exporter_listen", "web_listen")


def check_scalars(settings: Settings, given: Mapping[str, Given]) -> Iterator[Fault]:
    """Faults of single settings that need more than a type; those with defaults are right."""
    for field, schemes in _SCHEMES.items():
        secret = getattr(settings, field)
        if secret is not None and not secret.get_secret_value().startswith(tuple(f"{scheme}://" for scheme in schemes)):
            yield given[field].fault(f"is no URL that can be used; write one that begins with {schemes[0]}://")
        elif secret is not None and (fault := fault_of(secret.get_secret_value())) is not None:
            yield given[field].fault(fault)
    for field in _LISTENERS:
        if not _is_listener(getattr(settings, field)):
            yield given[field].fault(f"{getattr(settings, field)!r} is no address; write one such as 127.0.0.1:9811")
    if settings.exporter_listen == settings.web_listen and not settings.web_listen.endswith(":0"):
        field = next(field for field in _LISTENERS if field in given)
        yield given[field].fault("exporter_listen and web_listen are the same; give each its own port")
    if settings.lookback <= _ZERO:
        yield given["lookback"].fault(
            "is nothing; a counter needs the sample before, so write some intervals, such as 5m"
        )


def _is_listener(text: str) -> bool:
    try:
        address = urlsplit(f"//{text}")
        is_port = address.port is not None and 0 <= address.port <= _HIGHEST_PORT
    except ValueError:
        return False
    return is_port and bool(address.hostname) and text == address.netloc and "@" not in text


def check_tiers(
    entries: Sequence[Entry[Tier]], settings: Settings, given: Mapping[str, Given], *, is_complete: bool
) -> Iterator[Fault]:
    """Faults of the ladder: steps that do not divide, and retentions that drop what a coarser tier still needs.

    Where the entries are not complete, since others are faulty, each is only looked at alone.
    """
    ordered = sorted(entries, key=lambda entry: entry.value.step)
    for place, entry in enumerate(ordered):
        yield from _alone(entry)
        yield from _twin(entry, ordered[:place])
        if is_complete:
            yield from _parent(entry, [other for other in ordered[:place] if other.value.step < entry.value.step])
    if ordered and is_complete:
        yield from _samples(ordered[0], settings, given)


def _alone(entry: Entry[Tier]) -> Iterator[Fault]:
    tier = entry.value
    step = format_duration(tier.step)
    if tier.retention < tier.step:
        yield entry.fault("retention", f"is shorter than the tier's step; keep at least one bucket, {step}")
    elif tier.retention > LONGEST_RETENTION:
        yield entry.fault("retention", "is longer than 1000y; write at most that")
    if tier.step % _DAYS_AS_A_YEAR == _ZERO:
        yield entry.fault("step", f"{step} has years of 365 days; write 12mo for one that begins on 1 January")
    if tier.step % timedelta(seconds=1):
        yield entry.fault("step", f"{step} is no whole number of seconds; write one, such as 10s")
    if tier.timezone != "UTC" and not is_local(tier):
        message = "a zone decides where days begin; write a step of days, weeks or months, or leave the zone out"
        yield entry.fault("timezone", message)


def _twin(entry: Entry[Tier], others: Sequence[Entry[Tier]]) -> Iterator[Fault]:
    tier = entry.value
    for other in (other.value for other in others):
        if (other.step, other.timezone) == (tier.step, tier.timezone):
            yield entry.fault("step", f"tier {other.name!r} has the same step and zone; one of the two is enough")


def _parent(entry: Entry[Tier], finer: Sequence[Entry[Tier]]) -> Iterator[Fault]:
    """A tier is built from the coarsest finer one that divides it, which must keep a whole bucket's worth."""
    tier = entry.value
    built_from = [other for other in finer if divides(other.value, tier)]
    if finer and not built_from:
        yield entry.fault("step", _no_parent(tier, [other.value for other in finer]))
    if not built_from:
        return
    parent = built_from[-1]
    needed = longest_bucket(tier)
    if parent.value.step <= parent.value.retention < needed:
        message = f"is shorter than a bucket of tier {tier.name!r}, which is built from this one; keep at least "
        yield parent.fault("retention", message + format_duration(needed))


def _no_parent(tier: Tier, finer: Sequence[Tier]) -> str:
    step = format_duration(tier.step)
    steps = ", ".join(dict.fromkeys(format_duration(other.step) for other in finer))
    if is_local(tier) or tier.months:
        divisor = format_duration(day_divisor(tier.timezone))
        return f"no finer tier ({steps}) divides the days of {tier.timezone}; add one that divides {divisor}"
    return f"{step} is a multiple of no finer tier's step ({steps}); write a multiple of one of them, or add a tier"


def _samples(entry: Entry[Tier], settings: Settings, given: Mapping[str, Given]) -> Iterator[Fault]:
    """The finest tier is built from samples, which must be kept until its bucket is final."""
    needed = longest_bucket(entry.value) + settings.lateness + settings.lookback
    if settings.sample_retention >= needed:
        return
    if "sample_retention" in given:
        message = f"is too short to build tier {entry.value.name!r}; write at least {format_duration(needed)}"
        yield given["sample_retention"].fault(message)
        return
    message = f"samples are not kept for so long; raise sample_retention to {format_duration(needed)}"
    lengthened = [given[field] for field in ("lateness", "lookback") if field in given]
    yield from (setting.fault(message) for setting in lengthened)
    if not lengthened:
        yield entry.fault("step", message)


def check_summaries(entries: Sequence[Entry[Summary]], tiers: Sequence[Tier]) -> Iterator[Fault]:
    """Faults of trends: each point is made of whole buckets of some tier."""
    steps = [tier.step for tier in tiers if not is_local(tier) and not tier.months]
    for entry in entries:
        summary = entry.value
        point = summary.window / summary.trend if summary.trend else None
        if point is not None and all(point % step for step in steps):
            message = f"its points are {format_duration(point)} long, which no tier's step divides; write fewer"
            yield entry.fault("trend", message)
