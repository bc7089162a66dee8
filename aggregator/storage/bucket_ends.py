"""SQL for the end of a bucket: days, weeks and months end where our own calendar says, not PostgreSQL's."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache

from aggregator.rollups.buckets import Ladder

#: No sample is older than the first; buckets after the last are taken to be as long as the last one before it.
_SINCE = datetime(1970, 1, 1, tzinfo=UTC)
_UNTIL = datetime(2100, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)


@cache
def end_of_bucket(ladder: Ladder, start: str) -> str:
    """SQL (timestamptz) for the end of the bucket that starts at the expression `start`.

    Where buckets differ in length, the lengths stand in the expression: PostgreSQL has rules for zones of its own, and
    takes the second of two midnights where we take the first.
    """
    if not ladder.is_calendar:
        return f"({start} + interval '{ladder.step.total_seconds()} seconds')"
    starts, lengths = zip(*_lengths(ladder), strict=True)
    instants = ",".join(instant.strftime("%Y-%m-%d %H:%M+00") for instant in starts)
    seconds = ",".join(str(length // _SECOND) for length in lengths)
    length = f"('{{{seconds}}}'::int4[])[width_bucket({start}, '{{{instants}}}'::timestamptz[])]"
    return f"({start} + {length} * interval '1 second')"


def _lengths(ladder: Ladder) -> Iterator[tuple[datetime, timedelta]]:
    """From which bucket on buckets have another length than those before, and which."""
    before = None
    start, *ends = ladder.starts(_SINCE, _UNTIL)
    for end in ends:
        if end - start != before:
            before = end - start
            yield start, before
        start = end
