"""Spans: dirty buckets that are computed together, bounded in memory."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from aggregator.rollups.buckets import Ladder
from aggregator.stages.rollup.spans import MOST_BUCKETS, MOST_CELLS, buckets_at_once, spans

MINUTE = timedelta(minutes=1)
START = datetime(2026, 3, 1, tzinfo=UTC)
LADDER = Ladder(MINUTE)


@given(minutes=st.sets(st.integers(0, 3_000), max_size=80), cells=st.integers(1, 2 * MOST_CELLS))
def test_every_bucket_lies_in_one_span_and_no_span_is_too_large(minutes: set[int], cells: int) -> None:
    buckets = [START + minute * MINUTE for minute in sorted(minutes)]
    found = list(spans(set(buckets), LADDER, cells=cells))
    assert [bucket for span in found for bucket in span.buckets] == buckets
    for span in found:
        assert span.since == span.buckets[0]
        assert span.until == span.buckets[-1] + MINUTE
        assert len(span.buckets) == 1 or (span.until - span.since) // MINUTE * cells <= MOST_CELLS


def test_neighbours_are_taken_together_and_far_ones_apart() -> None:
    near, far = START + 3 * MINUTE, START + timedelta(days=2)
    assert [span.buckets for span in spans([far, near, START], LADDER, cells=500)] == [(START, near), (far,)]


def test_a_large_shard_takes_few_buckets_a_small_one_many() -> None:
    assert buckets_at_once(MOST_CELLS * 2) == 1
    assert buckets_at_once(0) == buckets_at_once(64) == MOST_BUCKETS
