"""Summaries over a selector: computed from the rollups of the tier that fits the window."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from aggregator.config.model import Summary
from aggregator.errors import AggregatorError
from aggregator.rollups.buckets import floor_to
from aggregator.storage.catalog import Installation, TierEntry
from aggregator.storage.summary_groups import Answers, Key, Span, read_answers

#: The finest tier that needs no more buckets than this for a window is read.
MOST_BUCKETS = 120


@dataclass(frozen=True)
class Computed:
    """A summary's answer: its rows, and how much to trust them. `tier` and `completeness`: None for SQL."""

    rows: list[dict[str, Any]]
    as_of: datetime
    tier: str | None
    completeness: float | None
    is_final: bool


def choose_tier(installation: Installation, summary: Summary) -> TierEntry:
    """The finest tier that covers the window with few buckets and is kept so long; else the coarsest.

    With a trend, of the tiers whose buckets make up its points. Raises AggregatorError where none does.
    """
    fitting = [tier for tier in installation.tiers if _makes_up_points(tier, summary)]
    if not fitting:
        raise AggregatorError(f"summary {summary.name}: no tier's step divides the points of its trend; write fewer")
    looked_back = summary.window * (2 if summary.compare else 1)
    small = (
        tier
        for tier in fitting
        if summary.window / tier.ladder.step <= MOST_BUCKETS and tier.retention >= looked_back + tier.ladder.step
    )
    return next(small, fitting[-1])


def _makes_up_points(tier: TierEntry, summary: Summary) -> bool:
    if not summary.trend:
        return True
    return not tier.ladder.is_calendar and not summary.window / summary.trend % tier.ladder.step


def compute(connection: Connection, installation: Installation, summary: Summary, *, now: datetime) -> Computed:
    """Compute a summary over its window up to now, from whole buckets: the one in which the window begins is in it.

    Per series first, then over the series of a group: an average is weighted by samples, rates and increases are
    summed, a ratio divides the groups of two selectors that have equal labels.
    """
    tier = choose_tier(installation, summary)
    since = tier.ladder.start_of(now - summary.window)
    answers = read_answers(connection, tier, summary, Span(since, now))
    shown = _ranked(answers, summary)
    rows = [{**dict(zip(summary.by, key, strict=True)), "value": answers[key, None].value} for key in shown]
    if summary.compare:
        earlier = Span(tier.ladder.start_of(now - 2 * summary.window), since)
        _add_before(rows, shown, read_answers(connection, tier, summary, earlier, only=shown))
    if summary.trend:
        _add_trend(rows, shown, _trend(connection, tier, summary, shown, now=now))
    groups = [answers[key, None] for key in shown]
    return Computed(
        rows=rows,
        as_of=max((group.as_of for group in groups), default=now),
        tier=tier.name,
        completeness=min((group.completeness for group in groups if group.completeness is not None), default=None),
        is_final=bool(groups) and all(group.is_final for group in groups),
    )


def _ranked(answers: Answers, summary: Summary) -> list[Key]:
    """The groups that are shown, first the highest (or lowest); equal ones in the order of their labels."""
    given = sorted((key, group.value) for (key, _), group in answers.items() if group.value is not None)
    given.sort(key=lambda pair: pair[1], reverse=summary.order == "highest")
    return [key for key, _ in given[: summary.top]]


def _add_before(rows: Iterable[dict[str, Any]], shown: Iterable[Key], answers: Answers) -> None:
    for row, key in zip(rows, shown, strict=True):
        group = answers.get((key, None))
        row["before"] = group.value if group is not None else None
        row["ratio"] = row["value"] / row["before"] if row["before"] else None


def _add_trend(
    rows: Iterable[dict[str, Any]], shown: Iterable[Key], points: tuple[Sequence[datetime], Answers]
) -> None:
    starts, answers = points
    for row, key in zip(rows, shown, strict=True):
        found = ((start, answers.get((key, start))) for start in starts)
        row["trend"] = [[start.isoformat(), group.value if group else None] for start, group in found]


def _trend(
    connection: Connection, tier: TierEntry, summary: Summary, shown: Sequence[Key], *, now: datetime
) -> tuple[Sequence[datetime], Answers]:
    """The starts of the points, oldest first, and their values; the running one is left out while it has none."""
    length = summary.window / summary.trend
    running = floor_to(now, length)
    span = Span(running - summary.trend * length, now, length)
    answers = read_answers(connection, tier, summary, span, only=shown)
    newest = max((at for _, at in answers if at is not None), default=running)
    last = max(newest, running - length)
    return [last - back * length for back in range(summary.trend - 1, -1, -1)], answers
