"""Quantiles in SQL: of histograms as Prometheus computes them, of sketches as `rollups.sketch` does."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import Connection, text

from aggregator.exposition.series import Kind, SeriesKey
from aggregator.rollups.buckets import milliseconds
from aggregator.rollups.sketch import RELATIVE_ERROR, keys_of, quantile, sketch_samples, values_of
from aggregator.storage.engine import transaction
from tests.installation import Installation, series_key

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINIMUM_NORMAL = sys.float_info.min

Buckets = Sequence[tuple[str, float | None]]


@pytest.fixture
def connection(installation: Installation) -> Iterator[Connection]:
    with transaction(installation.database.engine) as made:
        yield made


def prometheus_quantile(q: float, buckets: Buckets) -> float:
    """Prometheus' published definition (3.x), on buckets of any order, those of one bound added up; NaN: no answer."""
    counts: dict[float, float] = {}
    for le, increase in buckets:
        if increase is not None:
            counts[float(le)] = counts.get(float(le), 0.0) + increase
    if counts and not 0 <= q <= 1:
        return math.copysign(math.inf, q)
    bounds = sorted(counts)
    cumulative = monotonic([counts[bound] for bound in bounds])
    if len(bounds) < 2 or bounds[-1] != math.inf or cumulative[-1] == 0:
        return math.nan
    rank = q * cumulative[-1]
    place = next((place for place, count in enumerate(cumulative[:-1]) if count >= rank), len(bounds) - 1)
    if place == len(bounds) - 1:
        return bounds[-2]
    if place == 0 and bounds[0] <= 0:
        return bounds[0]
    start, below = (bounds[place - 1], cumulative[place - 1]) if place else (0.0, 0.0)
    inside = cumulative[place] - below
    return start + (bounds[place] - start) * ((rank - below) / inside) if inside else math.nan


def monotonic(counts: Sequence[float]) -> list[float]:
    """The counts without falls, and without differences that are rounding alone."""
    repaired = list(counts[:1])
    for count in counts[1:]:
        before = repaired[-1]
        repaired.append(before if count < before or almost_equal(before, count) else count)
    return repaired


def almost_equal(one: float, other: float, tolerance: float = 1e-12) -> bool:
    if one == other:
        return True
    size, difference = abs(one) + abs(other), abs(one - other)
    if one == 0 or other == 0 or size < MINIMUM_NORMAL:
        return difference < tolerance * MINIMUM_NORMAL
    return difference / min(size, sys.float_info.max) < tolerance


def in_sql(connection: Connection, cases: Sequence[tuple[float | None, Buckets]]) -> list[float]:
    """The answers of the aggregate, all in one statement; NaN for NULL."""
    rows = [(number, q, le, increase) for number, (q, buckets) in enumerate(cases) for le, increase in buckets]
    numbers, qs, les, increases = (list(column) for column in zip(*rows, strict=True))
    statement = text(
        "SELECT number, aggregator.histogram_quantile(q, le, increase) AS answer FROM unnest("
        "CAST(:numbers AS integer[]), CAST(:qs AS float8[]), CAST(:les AS text[]), CAST(:increases AS float8[])"
        ") AS given (number, q, le, increase) GROUP BY number"
    )
    found = connection.execute(statement, {"numbers": numbers, "qs": qs, "les": les, "increases": increases})
    answers = {row.number: math.nan if row.answer is None else row.answer for row in found}
    return [answers[number] for number in range(len(cases))]


def random_histogram(randomness: random.Random) -> Buckets:
    bounds = randomness.sample(["-1", "0", "0.005", "0.25", "1", "2.5", "1e+06", "+Inf"], randomness.randrange(1, 8))
    count, buckets = 0.0, []
    for le in sorted(bounds, key=float):
        count = max(0.0, count + randomness.choice([0, 0, 1, 10, 0.1, 3, -1, 1e-14, 1e9]))
        buckets += [(le, count)] * randomness.choice([1, 1, 1, 2])
    randomness.shuffle(buckets)
    return buckets


def test_random_histograms_give_what_prometheus_gives(connection: Connection) -> None:
    randomness = random.Random(7)  # noqa: S311 - a test's own randomness
    cases = [
        (randomness.choice([0.0, 0.5, 0.9, 0.95, 1.0, randomness.random()]), random_histogram(randomness))
        for _ in range(3_000)
    ]
    answers = in_sql(connection, cases)
    expected = [prometheus_quantile(q, buckets) for q, buckets in cases]
    np.testing.assert_allclose(answers, expected, rtol=1e-12)
    assert 300 < np.isnan(expected).sum() < 2_400


EDGES: list[tuple[float | None, Buckets, float]] = [
    (0.5, [("1", 4.0), ("2", 8.0), ("+Inf", 8.0)], 1.0),
    (0.75, [("1", 4.0), ("2", 8.0), ("+Inf", 8.0)], 1.5),
    (0.25, [("1", 4.0), ("+Inf", 8.0)], 0.5),
    (0.9, [("1", 4.0), ("2", 4.0), ("+Inf", 8.0)], 2.0),  # beyond the highest bound there is no more to say
    (0.1, [("-1", 4.0), ("+Inf", 8.0)], -1.0),  # a first bucket that does not begin at 0
    (-0.1, [("1", 4.0), ("+Inf", 8.0)], -math.inf),
    (1.1, [("1", 4.0), ("+Inf", 8.0)], math.inf),
    (0.5, [("1", 4.0), ("2", 8.0)], math.nan),  # no bucket for all
    (0.5, [("+Inf", 8.0)], math.nan),
    (0.5, [("1", 0.0), ("+Inf", 0.0)], math.nan),
    (0.5, [("1", None), ("+Inf", None)], math.nan),
    (None, [("1", 4.0), ("+Inf", 8.0)], math.nan),
    (math.nan, [("1", 4.0), ("+Inf", 8.0)], math.nan),
    (0.5, [("1", 4.0), ("nonsense", 99.0), ("1e999", 5.0), ("", 5.0), ("+Inf", 8.0)], 1.0),
    (0.5, [("1e0", 2.0), ("1.0", 2.0), (".2e1", 8.0), ("inf", 8.0)], 1.0),  # one bound, however it is written
    (0.5, [("1", 1e308), ("1", 1e308), ("2", 1e308), ("+Inf", 1e308)], 0.5),  # nothing overflows
    (0.5, [("4", 3.0), ("3", 4.0), ("+Inf", 4.0)], 1.5),  # a bound that equals a count
]


def test_the_edges_of_a_histogram(connection: Connection) -> None:
    answers = in_sql(connection, [(q, buckets) for q, buckets, _ in EDGES])
    for (q, buckets, expected), answer in zip(EDGES, answers, strict=True):
        assert answer == pytest.approx(expected, nan_ok=True), (q, buckets)


def sketched(connection: Connection, q: float | None, *parts: Sequence[float]) -> tuple[float | None, float | None]:
    """The quantile over sketches of the parts, and the one over a single sketch of all their values."""
    statement = text(
        "SELECT aggregator.sketch_quantile(:q, CAST(CAST(:parts AS text[]) AS aggregator.series_sketch[])),"
        " aggregator.sketch_quantile(:q, CAST(:whole AS aggregator.series_sketch))"
    )
    whole = as_text(sketch_of([value for part in parts for value in part]))
    row = connection.execute(statement, {"q": q, "parts": [as_text(sketch_of(part)) for part in parts], "whole": whole})
    merged, single = row.one()
    return merged, single


def sketch_of(values: Sequence[float]) -> tuple[list[int], list[int], float, float]:
    sketch = sketch_samples(np.array(values).reshape(-1, 1))
    return sketch.keys.tolist(), sketch.counts.tolist(), min(values), max(values)


def as_text(sketch: tuple[list[int], list[int], float, float]) -> str:
    keys, counts = (",".join(map(str, part)) for part in sketch[:2])
    return f'("{{{keys}}}","{{{counts}}}",{sketch[2]!r},{sketch[3]!r})'


def wild(randomness: random.Random) -> float:
    """A value of any size and sign; most are of a few sizes, as a series' are."""
    size = math.exp(min(randomness.choice([1, 1, 1, 200]) * randomness.gauss(0, 1.5), 709))
    return randomness.choice([-1, 1]) * randomness.choice([size, size, size, 0.0, math.inf, 5e-324, 1e308])


def test_quantiles_of_merged_sketches_lie_within_one_percent_of_all_samples(connection: Connection) -> None:
    randomness = random.Random(3)  # noqa: S311 - a test's own randomness
    exact = text("SELECT percentile_disc(:q) WITHIN GROUP (ORDER BY x) FROM unnest(CAST(:given AS float8[])) AS x")
    for _ in range(150):
        parts = [[wild(randomness) for _ in range(randomness.randrange(1, 20))] for _ in range(3)]
        every = [value for part in parts for value in part]
        q = randomness.choice([0.0, 0.5, 0.99, 1.0, randomness.random()])
        merged, single = sketched(connection, q, *parts)
        assert merged is not None
        right = connection.execute(exact, {"q": q, "given": every}).scalar_one()
        keys, counts, low, high = sketch_of(every)
        assert merged == single == pytest.approx(quantile(q, np.array(keys), np.array(counts), low=low, high=high))
        assert merged == right or abs(merged - right) <= RELATIVE_ERROR * abs(right) + 5e-324
        assert low <= merged <= high


def test_what_is_no_quantile_has_an_answer_too(connection: Connection) -> None:
    for q, answer in ((-0.5, -math.inf), (1.5, math.inf), (math.nan, None), (None, None)):
        assert sketched(connection, q, [1.0, 2.0], [3.0]) == (answer, answer)


def test_a_key_has_the_same_value_in_sql(connection: Connection) -> None:
    keys = np.array([0, 280, 281, 2_000, 37_500, 72_988, 100_000])
    keys = np.concatenate((keys, -keys))
    statement = text("SELECT aggregator.sketch_value(key) FROM unnest(CAST(:keys AS integer[])) AS key")
    found = connection.execute(statement, {"keys": keys.tolist()}).scalars().all()
    np.testing.assert_allclose(found, values_of(keys), rtol=1e-12)
    assert connection.execute(text("SELECT aggregator.sketch_value(1), aggregator.sketch_value(99999)")).one()


def test_a_reader_of_the_views_asks_both_of_what_was_collected(installation: Installation) -> None:
    (target,) = installation.targets(1)
    bounds = {"0.1": 1.0, "1": 3.0, "+Inf": 4.0}
    samples: dict[int, dict[SeriesKey, float]] = {}
    for step, value in enumerate((0.0, 10.0)):
        at = milliseconds(START + timedelta(seconds=15 * step))
        samples[at] = {
            SeriesKey("x_bucket", (("instance", "t0"), ("job", "scripted"), ("le", le)), Kind.COUNTER): value * share
            for le, share in bounds.items()
        }
        samples[at][series_key("g", 0, Kind.GAUGE)] = 100.0 + value
    with transaction(installation.database.engine) as connection:
        connection.execute(text('UPDATE aggregator.sources SET definition = \'{"quantiles": [".*"]}\''))
    installation.collect(target, samples)
    installation.now += timedelta(minutes=2)
    installation.roll_up()
    with transaction(installation.database.engine) as connection:
        for statement in (
            "CREATE ROLE quantile_reader",
            "GRANT quantile_reader TO CURRENT_USER",
            "GRANT USAGE ON SCHEMA aggregator TO quantile_reader",
            "GRANT SELECT ON aggregator.metrics_1m, aggregator.sketches_1m TO quantile_reader",
            "SET LOCAL ROLE quantile_reader",
        ):
            connection.execute(text(statement))
        histogram = text(
            "SELECT time, instance, aggregator.histogram_quantile(0.5, labels ->> 'le', increase) AS p50"
            " FROM aggregator.metrics_1m WHERE metric = 'x_bucket' GROUP BY 1, 2"
        )
        assert connection.execute(histogram).one() == (START, "t0", pytest.approx(0.1 + 0.9 * (20 - 10) / (30 - 10)))
        sketch = text(
            "SELECT time, aggregator.sketch_quantile(0.5, array_agg(sketch)) AS p50"
            " FROM aggregator.sketches_1m WHERE metric = 'g' GROUP BY 1"
        )
        assert connection.execute(sketch).one() == (START, pytest.approx(100, rel=RELATIVE_ERROR))
        single = text("SELECT count, aggregator.sketch_quantile(1, sketch) FROM aggregator.sketches_1m")
        assert connection.execute(single).all() == [(2, 110.0)]
        connection.rollback()


def test_keys_of_a_value_are_what_a_heat_map_groups_by(connection: Connection) -> None:
    key = int(keys_of(np.array(250.0)))
    value = connection.execute(text("SELECT aggregator.sketch_value(:key)"), {"key": key}).scalar_one()
    assert value == pytest.approx(250, rel=RELATIVE_ERROR)
