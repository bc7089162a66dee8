"""Zones whose clocks did something odd at or near a midnight, or whose rules changed; with the instants (UTC)."""

from __future__ import annotations

from datetime import timedelta

from aggregator.rollups.buckets import Ladder

ODD = {
    "Africa/Cairo": ["2010-08-10T22:00", "2014-05-15T22:00", "2023-10-26T21:00"],
    "Africa/Casablanca": ["2018-10-28T01:00", "2019-05-05T02:00", "2026-02-15T02:00"],
    "Africa/Monrovia": ["1972-01-07T00:44:30"],
    "America/Havana": ["2026-03-08T05:00", "2026-11-01T05:00"],
    "America/New_York": ["2026-03-08T07:00", "2026-11-01T06:00"],
    "America/Santiago": ["2026-04-05T03:00", "2026-09-06T04:00"],
    "America/Sao_Paulo": ["2018-11-04T03:00", "2019-02-17T02:00"],
    "America/Scoresbysund": ["2024-03-31T01:00", "2026-10-25T01:00"],
    "America/St_Johns": ["1988-04-03T03:31", "1988-10-30T01:31", "2010-11-07T02:31"],
    "Antarctica/Casey": ["2010-03-04T15:00", "2018-03-10T17:00"],
    "Antarctica/Troll": ["2026-03-29T01:00", "2026-10-25T01:00"],
    "Antarctica/Vostok": ["1994-01-31T17:00", "1994-10-31T17:00"],
    "Asia/Amman": ["2021-03-25T22:00", "2022-10-27T22:00"],
    "Asia/Gaza": ["2015-10-22T22:00", "2016-03-25T23:00"],
    "Asia/Kathmandu": ["1985-12-31T18:30"],
    "Asia/Pyongyang": ["2015-08-14T15:00", "2018-05-04T15:00"],
    "Atlantic/Azores": ["2026-03-29T01:00", "2026-10-25T01:00"],
    "Australia/Lord_Howe": ["2026-04-04T15:00", "2026-10-03T15:30"],
    "Europe/Berlin": ["2026-03-29T01:00", "2026-10-25T01:00"],
    "Europe/Volgograd": ["2018-10-27T23:00", "2020-12-26T22:00"],
    "Pacific/Apia": ["2011-12-30T10:00", "2021-04-03T14:00"],
    "Pacific/Kiritimati": ["1979-10-01T10:40", "1994-12-31T10:00"],
    "Pacific/Kwajalein": ["1993-08-21T12:00"],
    "UTC": ["2000-02-29T00:00", "2096-02-29T00:00"],
}
#: Every kind of step that follows a calendar, in UTC.
CALENDAR_STEPS = {
    "1d": Ladder(timedelta(days=1)),
    "3d": Ladder(timedelta(days=3)),
    "1w": Ladder(timedelta(days=7)),
    "2w": Ladder(timedelta(days=14)),
    **{f"{months}mo": Ladder(timedelta(seconds=2_629_746 * months), months=months) for months in (1, 3, 5, 12, 24)},
}


def in_zone(step: str, zone: str) -> Ladder:
    """One of the calendar steps in a zone."""
    return Ladder(CALENDAR_STEPS[step].step, zone, months=CALENDAR_STEPS[step].months)
