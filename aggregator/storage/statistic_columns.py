"""SQL for the statistics of one series in a rollup row, as views and functions give them.

PostgreSQL raises where a quotient leaves the range of doubles, and one such series would blank a whole panel: what is
that small counts as 0, a rate that large as infinite. NaN is what a kind lacks, and becomes NULL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from aggregator.storage.tables import SCHEMA


def average(total: str, count: str) -> str:
    """SQL: a quotient, 0 where PostgreSQL would raise because it is too small."""
    return f"CASE WHEN abs({total}) < 1e-300 THEN 0 ELSE {total} / {count} END"


def deviation(m2: str, count: str) -> str:
    """SQL: the standard deviation of `count` samples with squared deviations `m2`."""
    return f"sqrt({average(m2, count)})"


def rate(increase: str, covered: str) -> str:
    """SQL: an increase over the seconds that it covers, infinite where PostgreSQL would raise."""
    return (
        f"CASE WHEN abs({increase}) < 1e-300 THEN 0 WHEN abs({increase}) > 1e300 THEN {increase} * 'Infinity'"
        f" ELSE {increase} END / nullif({covered}, 0)"
    )


def given(array: str, position: str) -> str:
    """SQL: a series' element of an array, NULL where it has none."""
    return f"nullif({array}[{position}], 'NaN')"


def slots_due_of(row: str, position: str) -> str:
    """SQL (integer): the slots due for a series: its own, where it is an output of a rule, or those of its block."""
    return f"coalesce({row}.slots[{position}], {row}.slots_due)"


def statistics_of(row: str, position: str) -> Mapping[str, str]:
    """SQL by column: the statistics of the series at a position of the rollup row with the alias `row`."""
    return _statistics(
        f"{row}.count[{position}]",
        lambda name: given(f"{row}.{name}", position),
        slots_due=slots_due_of(row, position),
    )


def statistics_at(row: str) -> Mapping[str, str]:
    """SQL by column: the same from a row with one series' own numbers in columns of their names, NULL for NaN."""
    return _statistics(f"{row}.count", lambda name: f"{row}.{name}", slots_due=f"{row}.slots_due")


def _statistics(count: str, element: Callable[[str], str], *, slots_due: str) -> Mapping[str, str]:
    return {
        "count": count,
        "sum": element("sum"),
        "avg": average(element("sum"), count),
        **{name: element(name) for name in ("min", "max", "first", "last")},
        "stddev": deviation(element("m2"), count),
        "increase": element("increase"),
        "rate": rate(element("increase"), element("covered")),
        "completeness": f"least(1, {count}::float8 / nullif({slots_due}, 0))",
    }


def sketch_of(low: str, high: str) -> str:
    """SQL: the sketch of a series with these extremes from the sketch row `k` and its `among.places` in that.

    A block's arrays are in the order of their positions, so those of one series are a slice of them.
    """
    slices = (f"k.{name}[among.places[1]:among.places[cardinality(among.places)]]" for name in ("keys", "counts"))
    return f"ROW({', '.join(slices)}, {low}, {high})::{SCHEMA}.series_sketch"
