"""SQL functions that say where the intervals of a range lie: on the buckets of the tier that is read.

All are IMMUTABLE, so that PostgreSQL knows an interval's bounds when it plans, and opens no partition outside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from aggregator.rollups.buckets import Ladder
from aggregator.storage.tables import SCHEMA

_ONE_DAY = timedelta(days=1)
_MILLISECOND = timedelta(milliseconds=1)
#: What stands for samples where tiers have their ids.
RAW_ID = 0
#: SQL (timestamptz): the last instant before the end of a range, which is argument $3.
LAST_INSTANT = f"{SCHEMA}.instant_before($3)"


@dataclass(frozen=True)
class TierRange:
    """A tier that a range can be read from. `span`: the length of its sealed rows; None where it is not sealed."""

    tier_id: int
    ladder: Ladder
    span: timedelta | None = None

    @property
    def step_ms(self) -> int:
        """The step, or the average one of months."""
        return self.ladder.step // _MILLISECOND

    def interval(self, buckets: str) -> str:
        """SQL: what `interval_start` and `interval_end` need to know of an interval of so many buckets."""
        if not self.ladder.is_calendar:
            return f"{buckets} * {self.step_ms}"
        days = 0 if self.ladder.months else self.ladder.step // _ONE_DAY
        return f"'{self.ladder.timezone}', {buckets} * {days}, {buckets} * {self.ladder.months}"


# As `rollups.periods`: intervals are multiples of a length, of local days or of months since 1970, whole weeks since
# the Monday after.
_ORIGIN = f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.interval_origin(length_ms bigint) RETURNS timestamptz
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    RETURN CASE WHEN length_ms % 604800000 = 0 THEN '1970-01-05T00:00:00Z' ELSE '1970-01-01T00:00:00Z' END;
END
$$
"""
_START = f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.interval_start(at timestamptz, length_ms bigint) RETURNS timestamptz
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    RETURN date_bin(make_interval(secs => length_ms / 1000.0), at, {SCHEMA}.interval_origin(length_ms));
END
$$
"""
_END = f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.interval_end(at timestamptz, length_ms bigint) RETURNS timestamptz
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    RETURN {SCHEMA}.interval_start(at, length_ms) + make_interval(secs => length_ms / 1000.0);
END
$$
"""

# A day begins at the first of two midnights and, where there is none, when the clock has left it out; in whole
# minutes: as `rollups.periods.first_instant`.
_DAY_START = f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.day_start(day date, zone text) RETURNS timestamptz
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    midnight constant timestamp := day;
    found timestamptz := midnight AT TIME ZONE zone;
    earlier timestamptz;
BEGIN
    FOREACH earlier IN ARRAY ARRAY[found - interval '30 minutes', found - interval '1 hour'] LOOP
        IF earlier AT TIME ZONE zone = midnight THEN
            found := earlier;
        END IF;
    END LOOP;
    RETURN date_bin('1 minute', found, '1970-01-01T00:00:00Z');
END
$$
"""
# What has begun has begun, though the clock may be set back over midnight.
_FIRST_DAY = f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.interval_first_day(at timestamptz, zone text, days bigint, months bigint)
RETURNS date
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    day date := (at AT TIME ZONE zone)::date;
    origin constant date := CASE WHEN days % 7 = 0 THEN '1970-01-05' ELSE '1970-01-01' END;
    number integer;
BEGIN
    IF {SCHEMA}.day_start(day + 1, zone) <= at THEN
        day := day + 1;
    ELSIF {SCHEMA}.day_start(day, zone) > at THEN
        day := day - 1;
    END IF;
    IF months = 0 THEN
        RETURN origin + floor((day - origin)::numeric / days)::integer * days::integer;
    END IF;
    number := floor(((extract(year FROM day) - 1970) * 12 + extract(month FROM day) - 1) / months);
    RETURN date '1970-01-01' + make_interval(months => number * months::integer);
END
$$
"""
_LOCAL_START = f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.interval_start(at timestamptz, zone text, days bigint, months bigint)
RETURNS timestamptz
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    RETURN {SCHEMA}.day_start({SCHEMA}.interval_first_day(at, zone, days, months), zone);
END
$$
"""
_LOCAL_END = f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.interval_end(at timestamptz, zone text, days bigint, months bigint)
RETURNS timestamptz
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    next_day constant date := {SCHEMA}.interval_first_day(at, zone, days, months)
        + make_interval(days => days::integer, months => months::integer);
BEGIN
    RETURN {SCHEMA}.day_start(next_day, zone);
END
$$
"""
_INSTANT_BEFORE = f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.instant_before(at timestamptz) RETURNS timestamptz
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    RETURN at - interval '1 microsecond';
END
$$
"""
#: In the order in which one calls the other.
INTERVALS = (_INSTANT_BEFORE, _ORIGIN, _START, _END, _DAY_START, _FIRST_DAY, _LOCAL_START, _LOCAL_END)


def tier_functions(tiers: Sequence[TierRange]) -> list[str]:
    """Statements for the functions that know the tiers: steps, and where their intervals lie.

    `range_length_ms` is NULL for a tier whose intervals differ in length; `range_span`, the start of the span that
    holds an instant, for one that is not sealed.
    """
    buckets = f"{SCHEMA}.range_buckets(tier_id, interval_ms)"
    steps = {tier.tier_id: str(tier.step_ms) for tier in tiers}
    counts = {tier_id: f"greatest((interval_ms + {step} - 1) / {step}, 1)" for tier_id, step in steps.items()}
    lengths = {tier.tier_id: tier.interval(buckets) for tier in tiers if not tier.ladder.is_calendar}
    raw = "greatest(interval_ms, 1)"
    spans = {
        tier.tier_id: f"date_bin('{tier.span.total_seconds()} s', at, '1970-01-01T00:00:00Z')"
        for tier in tiers
        if tier.span is not None
    }
    return [
        _by_tier("range_step_ms(tier_id smallint)", "bigint", steps, raw="0"),
        _by_tier("range_buckets(tier_id smallint, interval_ms bigint)", "bigint", counts, raw="1"),
        _by_tier("range_span(tier_id smallint, at timestamptz)", "timestamptz", spans, raw="NULL"),
        _by_tier("range_length_ms(tier_id smallint, interval_ms bigint)", "bigint", lengths, raw=raw),
        *(
            _by_tier(
                f"range_{edge}(tier_id smallint, at timestamptz, interval_ms bigint)",
                "timestamptz",
                {tier.tier_id: f"{SCHEMA}.interval_{edge}(at, {tier.interval(buckets)})" for tier in tiers},
                raw=f"{SCHEMA}.interval_{edge}(at, {raw})",
            )
            for edge in ("start", "end")
        ),
    ]


def _by_tier(signature: str, returns: str, expressions: Mapping[int, str], *, raw: str) -> str:
    """A statement for a function that gives another expression for each tier; NULL for those that it does not know."""
    cases = " ".join(f"WHEN {tier_id} THEN {one}" for tier_id, one in {RAW_ID: raw, **expressions}.items())
    return f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.{signature} RETURNS {returns}
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    RETURN CASE tier_id {cases} END;
END
$$
"""
