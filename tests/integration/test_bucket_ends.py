"""The end of a bucket in SQL is the one that Python gives, for zones that PostgreSQL may know otherwise."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

from sqlalchemy import text

from aggregator.rollups.buckets import Ladder
from aggregator.storage.bucket_ends import end_of_bucket
from tests.sessions import session
from tests.zones import ODD, in_zone

AROUND = timedelta(days=40)
#: No sample is older than the first, and lengths are worked out to the end of the century.
EDGES = [datetime(1970, 1, 1, tzinfo=UTC) + AROUND, datetime(2095, 1, 1, tzinfo=UTC)]
#: A session's own zone must change nothing.
SESSION_ZONE = "Asia/Kathmandu"


def starts_near_what_is_odd(ladder: Ladder, zone: str) -> list[datetime]:
    odd = [datetime.fromisoformat(instant).replace(tzinfo=UTC) for instant in ODD[zone]]
    spans = [(instant - AROUND, instant + AROUND) for instant in (*odd, *EDGES)]
    return sorted({start for since, until in spans for start in ladder.starts(since, until)})


def test_the_end_of_a_bucket_in_sql_is_the_one_of_python(empty_database_url: str) -> None:
    with session(empty_database_url) as database, database.engine.connect() as connection:
        connection.execute(text(f"SET timezone = '{SESSION_ZONE}'"))
        for step, zone in itertools.product(("1d", "1mo", "24mo"), ODD):
            ladder = in_zone(step, zone)
            starts = starts_near_what_is_odd(ladder, zone)
            end = end_of_bucket(ladder, "given.bucket").replace(":", "\\:")
            rows = connection.execute(
                text(f"SELECT {end} FROM unnest(:starts) AS given(bucket) ORDER BY bucket"),  # noqa: S608 - our own
                {"starts": starts},
            )
            assert list(rows.scalars()) == [ladder.end_of(start) for start in starts], (step, zone)
