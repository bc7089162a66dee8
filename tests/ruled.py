"""Rules over scripts: every row of every output beside a brute-force computation from the inputs' stored rollups.

Sums are exact rational numbers, as in the oracle of single series.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

from sqlalchemy import text

from aggregator.config.model import Rule, Settings
from aggregator.exposition.series import SeriesKey
from aggregator.rollups.buckets import milliseconds
from aggregator.storage.engine import Connection, Database
from aggregator.storage.publish import publish
from tests.arrivals import Series
from tests.oracle import ROUNDING
from tests.scene import Scene

STEPS = {"1m": 1, "5m": 5, "1h": 12, "1d": 24}
STEP_SECONDS = {"1m": 60, "5m": 300, "1h": 3_600, "1d": 86_400}
LARGEST = 1.797e308

Row = Mapping[str, Any]
#: The labels of an output, whether it is a counter, and its bucket.
Identity = tuple[tuple[tuple[str, str], ...], bool, datetime]


@dataclass(frozen=True)
class RuledScene(Scene):
    """A scene in which every other series has a label more."""

    def key(self, series: Series) -> SeriesKey:
        """The key that a collector hands out for a series."""
        key = super().key(series)
        place = int(series.name.rpartition("_")[2])
        zone = (("zone", "north" if series.target % 2 else "south"),) if place % 2 else ()
        return key._replace(labels=tuple(sorted((*key.labels, *zone))))

    def rules(self) -> tuple[Rule, ...]:
        """Rules that group by no label, by one that is always there, by one that is not, and by all others."""
        mine = f'{{__name__=~".*_{self.name}"}}'
        return (
            Rule(name=f"all:{self.name}", select=mine, by=()),
            Rule(name=f"each:{self.name}", select=mine, by=("instance",)),
            Rule(name=f"zone:{self.name}", select=mine, by=("zone", "job"), labels={"made": "here"}),
            Rule(name=f"rest:{self.name}", select=mine, without=("instance", "job")),
        )

    def other_rules(self) -> tuple[Rule, ...]:
        """Rules of the same names that give something else."""
        only = f'{{__name__=~"(small|whole).*_{self.name}"}}'
        return tuple(
            replace_rule(rule, select=only, by=("instance", "zone"), without=None, labels={}) for rule in self.rules()
        )

    def assert_outputs_are_right(self, database: Database, rules: Sequence[Rule]) -> None:
        """Every tier of every rule has the rows that its inputs' rollups give, and no others."""
        inputs = read(database, "1m", f".*_{self.name}")
        for rule in rules:
            chosen = [row for row in inputs if _selects(rule, row)]
            expected: dict[Identity, Row] = {}
            for tier in STEPS:
                below = expected
                expected = finest(rule, chosen) if tier == "1m" else merged(below, tier)
                stored = {identity_of(row): row for row in read(database, tier, rule.name)}
                assert set(stored) == set(expected), (rule, tier)
                for identity, row in stored.items():
                    assert_equals(row, expected[identity], is_merged=tier != "1m")


def replace_rule(rule: Rule, **values: object) -> Rule:
    """The rule with other values, checked."""
    return Rule.model_validate(rule.model_dump() | values)


def publish_rules(connection: Connection, settings: Settings, rules: Iterable[Rule], *, now: datetime) -> None:
    """Publish the settings with these rules."""
    published = settings.model_copy(update={"rules": tuple(rules)})
    publish(connection, published, config_hash="with rules", now=now)


def read(database: Database, tier: str, metric: str) -> list[Row]:
    """All rows of a tier whose metric matches an expression."""
    statement = text("SELECT * FROM aggregator.metric_rollups WHERE tier = :tier AND metric ~ :pattern")
    with database.engine.connect() as connection:
        rows = connection.execute(statement, {"tier": tier, "pattern": f"^(?:{metric})$"}).mappings().all()
    return [dict(row) for row in rows]


def _selects(rule: Rule, row: Row) -> bool:
    pattern = rule.select
    return not pattern.startswith('{__name__=~"(') or row["metric"].startswith(("small", "whole"))


def identity_of(row: Row) -> Identity:
    """What makes a row of one rule and tier the only one."""
    return tuple(sorted(row["labels"].items())), row["increase"] is not None, row["time"]


def finest(rule: Rule, rows: Iterable[Row]) -> dict[Identity, Row]:
    """The outputs in the finest tier from the rows of the inputs."""
    groups: defaultdict[Identity, list[Row]] = defaultdict(list)
    for row in rows:
        labels = row["labels"]
        kept = {
            name: value
            for name, value in labels.items()
            if (name in rule.by if rule.by is not None else name not in (rule.without or ()))
        } | rule.labels
        groups[tuple(sorted(kept.items())), row["covered"] is not None, row["time"]].append(row)
    return {identity: _together(members, covered=_mean) for identity, members in groups.items()}


def merged(finer: Mapping[Identity, Row], tier: str) -> dict[Identity, Row]:
    """The outputs in a coarser tier from those in the tier below."""
    step = timedelta(seconds=STEP_SECONDS[tier])
    groups: defaultdict[Identity, list[Row]] = defaultdict(list)
    for (labels, is_counter, time), row in finer.items():
        start = time - timedelta(milliseconds=milliseconds(time) % (step // timedelta(milliseconds=1)))
        groups[labels, is_counter, start].append(row)
    return {
        identity: {
            **_together(members, covered=_sum),
            "slots_due": round(Fraction(sum(row["slots_due"] for row in members), len(members)) * STEPS[tier]),
        }
        for identity, members in groups.items()
    }


def _together(rows: Sequence[Row], *, covered: Any) -> Row:
    """Rows as one; what a statistic is when one of them does not know it, is None."""
    count = sum(row["count"] for row in rows)
    return {
        "count": count,
        "sum": _sum([row["sum"] for row in rows]),
        "min": _of_all(min, [row["min"] for row in rows]),
        "max": _of_all(max, [row["max"] for row in rows]),
        "m2": _m2(rows),
        "increase": _sum([row["increase"] for row in rows]),
        "covered": covered([row["covered"] for row in rows]),
        "slots_due": sum(row["slots_due"] for row in rows),
        "magnitude": sum(map(_magnitude, rows)),
    }


def _magnitude(row: Row) -> Fraction:
    """How large what was added up to this row was: what became infinite on the way was finite further below."""
    own = _size(row["sum"]) + _size(row["increase"])
    return max(own, row.get("magnitude", own))


def _size(value: float | Fraction | None) -> Fraction:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return Fraction()
    return abs(Fraction(value))


def _of_all(choose: Any, values: Sequence[float | None]) -> float | None:
    return None if None in values else choose(values)


def _sum(values: Sequence[Any]) -> Any:
    """Exact; None where one is not known or infinities of both signs meet."""
    if None in values:
        return None
    infinite = {value for value in values if isinstance(value, float) and not math.isfinite(value)}
    if infinite:
        return infinite.pop() if len(infinite) == 1 else None
    return sum(map(Fraction, values), Fraction())


def _mean(values: Sequence[Any]) -> Any:
    if None in values:
        return None
    positive = [value for value in values if value > 0]
    return _sum(positive) / len(positive) if positive else Fraction()


def _m2(rows: Sequence[Row]) -> Any:
    sums = [row["sum"] for row in rows]
    if any(row["m2"] is None for row in rows) or any(
        one is None or (isinstance(one, float) and not math.isfinite(one)) for one in sums
    ):
        return None
    within = _sum([row["m2"] for row in rows])
    if isinstance(within, float):
        return within
    count = sum(row["count"] for row in rows)
    mean = sum(map(Fraction, sums), Fraction()) / count
    return within + sum(
        row["count"] * (Fraction(one) / row["count"] - mean) ** 2 for row, one in zip(rows, sums, strict=True)
    )


def assert_equals(row: Row, expected: Row, *, is_merged: bool) -> None:
    """A stored row of an output is the expected one; of sums as exactly as doubles can hold them."""
    assert (row["first"], row["last"]) == (None, None)
    for name in ("count", "slots_due", "min", "max"):
        assert row[name] == expected[name], (name, row, expected)
    assert row["completeness"] == min(1.0, expected["count"] / expected["slots_due"])
    magnitude = expected["magnitude"]
    rounded = 64 * Fraction(ROUNDING) * magnitude if is_merged else Fraction(ROUNDING) ** 2 * 64 * magnitude
    for name in ("sum", "increase"):
        may_overflow = is_merged and magnitude > LARGEST
        assert _is_close(row[name], expected[name], rounded, may_overflow=may_overflow), (name, row, expected)
    assert _is_close(row["covered"], expected["covered"], Fraction(1, 10**9)), (row, expected)
    largest = max(_size(row["min"]), _size(row["max"]))
    unit = 64 * expected["count"] * (Fraction(2 * ROUNDING) * largest) ** 2
    size = _size(expected["m2"])
    tolerance = unit + size / 10**8 + Fraction(1, 10**290)
    assert _is_close(row["m2"], expected["m2"], tolerance, may_overflow=size > LARGEST / 10), (row, expected)


def _is_close(stored: float | None, expected: Any, tolerance: Fraction, *, may_overflow: bool = False) -> bool:
    if may_overflow and (stored is None or not math.isfinite(stored)):
        return True
    if stored is None or expected is None or isinstance(expected, float):
        return stored == expected
    if not math.isfinite(stored):
        return abs(expected) > LARGEST
    allowed = tolerance + Fraction(4 * ROUNDING) * abs(expected) + Fraction(5e-324)
    return bool(abs(Fraction(stored) - expected) <= allowed)
