"""Summaries over a selector, value, trend and before, against plain Python over all samples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aggregator.config.model import Summary
from aggregator.embedded.postgres import EmbeddedPostgres
from aggregator.exposition.series import Kind
from aggregator.rollups.buckets import floor_to, milliseconds
from aggregator.storage import catalog
from aggregator.storage.summary_values import Computed, compute
from tests import oracle
from tests.effort import examples
from tests.installation import Installation
from tests.ranged import START, ranged, samples

TARGETS = 3
MINUTE = timedelta(minutes=1)
LOOKBACK_MS = 300_000
METRICS = {"temperature": Kind.GAUGE, "requests_total": Kind.COUNTER}
STATISTICS = {
    "temperature": ("avg", "sum", "min", "max", "last"),
    "requests_total": ("rate", "increase", "last"),
}
#: Windows with the step of the tier that fits them, and points that they can be cut into.
WINDOWS = {
    timedelta(minutes=5): (MINUTE, (0, 1, 5)),
    timedelta(minutes=12): (MINUTE, (0, 3, 12)),
    timedelta(hours=1): (MINUTE, (0, 4, 60)),
    timedelta(hours=2): (MINUTE, (0, 8, 24)),
    timedelta(hours=3): (5 * MINUTE, (0, 6, 36)),
}


@pytest.fixture(scope="module")
def past(
    postgres_server: EmbeddedPostgres, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    with ranged(postgres_server, migrated_template, tmp_path_factory.mktemp("home"), targets=TARGETS) as made:
        yield made


@dataclass(frozen=True)
class Question:
    summary: Summary
    now: datetime
    step: timedelta


@st.composite
def questions(draw: st.DrawFn) -> Question:
    metric = draw(st.sampled_from(sorted(STATISTICS)))
    window = draw(st.sampled_from(sorted(WINDOWS)))
    step, points = WINDOWS[window]
    stat = draw(st.sampled_from(STATISTICS[metric]))
    return Question(
        Summary.model_validate(
            {
                "name": "asked",
                "select": metric,
                "divide_by": draw(st.sampled_from([None, "requests_total"])) if stat == "last" else None,
                "stat": stat,
                "by": draw(st.sampled_from([(), ("instance",), ("job",), ("instance", "absent")])),
                "window": window,
                "top": draw(st.sampled_from([1, 2, 10])),
                "order": draw(st.sampled_from(["highest", "lowest"])),
                "trend": draw(st.sampled_from(points)),
                "compare": draw(st.booleans()),
            }
        ),
        START + timedelta(seconds=draw(st.integers(min_value=60, max_value=4 * 3_600))),
        step,
    )


def series_of(metric: str, place: int) -> list[tuple[int, float]]:
    """The samples of a target's series: the n-th has every n-th sample, and n times as large a temperature."""
    gauge = samples(Kind.GAUGE)
    kept = [at for number, at in enumerate(gauge) if number % (place + 1) == 0]
    values = samples(METRICS[metric])
    return [(at, values[at] * (place + 1 if METRICS[metric] is Kind.GAUGE else 1)) for at in kept]


def expected(summary: Summary, metric: str, places: list[int], span: tuple[int, int]) -> float | None:
    """A statistic over series, from the samples of a half-open interval (milliseconds)."""
    own = [[(at, value) for at, value in series_of(metric, place) if span[0] <= at < span[1]] for place in places]
    own = [one for one in own if one]
    values = [value for one in own for _, value in one]
    if not values:
        return None
    if METRICS[metric] is Kind.COUNTER and summary.stat != "last":
        found = [oracle.counter(series_of(metric, place), *span, lookback_ms=LOOKBACK_MS) for place in places]
        found = [one for one in found if one["count"]]
        if summary.stat == "increase":
            return math.fsum(one["increase"] for one in found)
        rates = [one["increase"] / one["covered"] for one in found if one["covered"]]
        return math.fsum(rates) if rates else None
    plain: Mapping[str, float] = {
        "avg": math.fsum(values) / len(values),
        "sum": math.fsum(values),
        "min": min(values),
        "max": max(values),
        "last": math.fsum(one[-1][1] for one in own),
    }
    return plain[summary.stat]


def answer(summary: Summary, places: list[int], span: tuple[int, int]) -> float | None:
    above = expected(summary, str(summary.select), places, span)
    if summary.divide_by is None or above is None:
        return above
    below = expected(summary, summary.divide_by, places, span)
    return above / below if below else None


def groups(summary: Summary) -> dict[tuple[str, ...], list[int]]:
    found: dict[tuple[str, ...], list[int]] = {}
    for place in range(TARGETS):
        labels = {"instance": f"t{place}", "job": "scripted", "absent": ""}
        found.setdefault(tuple(labels[name] for name in summary.by), []).append(place)
    return found


def rows_of(question: Question) -> list[dict[str, Any]]:
    """What the summary has to give, as docs/summaries.md describes it."""
    summary, now, step = question.summary, question.now, question.step
    first = floor_to(now - summary.window, step)
    end = floor_to(now - timedelta(microseconds=1), step) + step
    span = (milliseconds(first), milliseconds(end))
    values = {key: answer(summary, places, span) for key, places in groups(summary).items()}
    shown = sorted((key, value) for key, value in values.items() if value is not None)
    shown.sort(key=lambda pair: pair[1], reverse=summary.order == "highest")
    rows = []
    for key, value in shown[: summary.top]:
        row: dict[str, Any] = {**dict(zip(summary.by, key, strict=True)), "value": value}
        places = groups(summary)[key]
        if summary.compare:
            before = floor_to(now - 2 * summary.window, step)
            row["before"] = answer(summary, places, (milliseconds(before), span[0]))
            row["ratio"] = value / row["before"] if row["before"] else None
        rows.append(row)
    if summary.trend:
        length = summary.window / summary.trend
        running = floor_to(now, length)

        def points(start: datetime, places: list[int]) -> float | None:
            return answer(summary, places, (milliseconds(start), min(milliseconds(start + length), span[1])))

        chosen = [groups(summary)[key] for key, _ in shown[: summary.top]]
        last = running if any(points(running, places) is not None for places in chosen) else running - length
        starts = [last - back * length for back in range(summary.trend - 1, -1, -1)]
        for row, places in zip(rows, chosen, strict=True):
            row["trend"] = [[start.isoformat(), points(start, places)] for start in starts]
    return rows


def close(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, float) and isinstance(found, float):
        return math.isclose(found, wanted, rel_tol=1e-9, abs_tol=1e-9)
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(close, found, wanted))
    return bool(found == wanted)


def asked(past: Installation, question: Question) -> Computed:
    return past.database.run(
        lambda connection: compute(
            connection, catalog.read_installation(connection), question.summary, now=question.now
        )
    )


@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(question=questions())
def test_any_summary_is_what_its_samples_say(past: Installation, question: Question) -> None:
    computed = asked(past, question)
    wanted = rows_of(question)
    assert [list(row) for row in computed.rows] == [list(row) for row in wanted]
    for found, row in zip(computed.rows, wanted, strict=True):
        assert all(close(found[name], row[name]) for name in row), (found, row)
    if wanted:
        step = question.step
        assert computed.tier == f"{step // MINUTE}m"
        assert question.now - question.summary.window - step < computed.as_of < question.now
