"""Instants as people type them: ISO 8601 with an offset, `now`, or relative such as `-2h`."""

from __future__ import annotations

from datetime import UTC, datetime

from aggregator.config.duration import parse_duration
from aggregator.errors import UsageError

EXAMPLES = "-2h, now, or ISO 8601 with an offset such as 2026-01-31T12:00:00Z"


def parse_instant(given: str, *, now: datetime) -> datetime:
    """The instant in UTC that a text means; raises UsageError, also for a time without an offset."""
    if given == "now":
        return now
    try:
        if given.startswith("-"):
            return now - parse_duration(given[1:])
        instant = datetime.fromisoformat(given)
    except (ValueError, OverflowError):
        raise UsageError(f"{given!r} is no time; write {EXAMPLES}") from None
    if instant.tzinfo is None:
        raise UsageError(f"{given!r} has no offset, and could mean several instants; write {EXAMPLES}")
    return instant.astimezone(UTC)
