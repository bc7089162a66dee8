"""Instants as people type them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from aggregator.cli.times import parse_instant
from aggregator.errors import UsageError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given", "instant"),
    [
        ("now", NOW),
        ("-2h", NOW - timedelta(hours=2)),
        ("-1h30m", NOW - timedelta(minutes=90)),
        ("2026-03-01T13:00:00+02:00", NOW - timedelta(hours=1)),
        ("2026-03-01T12:00:00Z", NOW),
    ],
)
def test_an_instant_is_read_as_utc(given: str, instant: datetime) -> None:
    assert parse_instant(given, now=NOW) == instant


@pytest.mark.parametrize("given", ["2026-03-01T12:00:00", "2026-03-01"])
def test_a_time_without_an_offset_is_refused(given: str) -> None:
    with pytest.raises(UsageError, match="no offset"):
        parse_instant(given, now=NOW)


@pytest.mark.parametrize("given", ["", "yesterday", "-2", "-", "-99999999y", "12:00"])
def test_what_is_no_time_is_refused_with_an_example(given: str) -> None:
    with pytest.raises(UsageError, match="write -2h"):
        parse_instant(given, now=NOW)
