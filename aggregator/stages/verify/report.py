"""What a verification has found: each value that differs, and how much was looked at."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

#: Mismatches that are listed; all are counted.
MOST_LISTED = 1_000


@dataclass(frozen=True)
class Mismatch:
    """One stored value that is not what it must be.

    `stored` and `recomputed` are None where there is no such value; `recomputed` also where only `expected` can be
    said, as for a statistic that contradicts others of its rollup. `metric` is empty where a whole row is meant.
    """

    tier: str
    bucket: datetime
    metric: str
    labels: Mapping[str, str]
    column: str
    stored: float | None
    recomputed: float | None
    expected: str = ""

    def __str__(self) -> str:
        labels = ",".join(f'{name}="{value}"' for name, value in sorted(self.labels.items()))
        series = f"{self.metric}{{{labels}}}" if self.metric else "a row"
        right = self.expected or f"recomputed {_shown(self.recomputed)}"
        return f"{self.tier} {_instant(self.bucket)} {series} {self.column}: stored {_shown(self.stored)}, {right}"

    def document(self) -> dict[str, Any]:
        """As JSON holds it; infinities and NaN as Prometheus writes them."""
        return {
            "tier": self.tier,
            "bucket": _instant(self.bucket),
            "metric": self.metric,
            "labels": dict(self.labels),
            "column": self.column,
            "stored": _json(self.stored),
            "recomputed": _json(self.recomputed),
            "expected": self.expected,
        }


def _shown(value: float | None) -> str:
    return "nothing" if value is None else str(_json(value))


def _json(value: float | None) -> float | str | None:
    if value is None or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("+Inf" if value > 0 else "-Inf")


def _instant(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


@dataclass(frozen=True)
class Report:
    """The result of one verification.

    `buckets`: of one tier and shard each, that were compared; `rollups`: series in those. `not_verifiable`: rollups
    whose input is no longer kept as a whole. `left_out`: buckets whose input waits in the ledger, or that have not
    ended. `samples`: those of the source kind selftest that were compared with their function. `is_complete`: False
    where the time was spent before everything had been looked at.
    """

    as_of: datetime
    buckets: int
    rollups: int
    not_verifiable: int
    left_out: int
    samples: int
    mismatches: tuple[Mismatch, ...]
    by_tier: Mapping[str, int]
    is_complete: bool

    @property
    def total(self) -> int:
        """How many values differ, listed or not."""
        return sum(self.by_tier.values())

    def summary(self) -> str:
        """All of it in one sentence."""
        parts = [
            f"{self.rollups:,} rollups in {self.buckets:,} buckets compared: {self.total:,} mismatches",
            f"{self.left_out:,} buckets left out, dirty or not ended",
            f"{self.not_verifiable:,} rollups not verifiable, their input is gone",
        ]
        if self.samples:
            parts.append(f"{self.samples:,} samples of selftest compared")
        if not self.is_complete:
            parts.append("not all was looked at: the time was spent")
        return "; ".join(parts)

    def document(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "as_of": _instant(self.as_of),
            "ok": not self.total,
            "buckets": self.buckets,
            "rollups": self.rollups,
            "not_verifiable": self.not_verifiable,
            "left_out": self.left_out,
            "samples": self.samples,
            "complete": self.is_complete,
            "mismatches_total": self.total,
            "mismatches_by_tier": dict(self.by_tier),
            "mismatches": [mismatch.document() for mismatch in self.mismatches],
        }


@dataclass
class Findings:
    """A report while it grows; `found` is called with each mismatch, listed or not."""

    found: Callable[[Mismatch], None] = lambda _: None
    buckets: int = 0
    rollups: int = 0
    not_verifiable: int = 0
    left_out: int = 0
    samples: int = 0
    is_complete: bool = True
    mismatches: list[Mismatch] = field(default_factory=list)
    by_tier: Counter[str] = field(default_factory=Counter)

    def add(self, mismatch: Mismatch) -> None:
        """Count a mismatch, and list it while there is room."""
        self.by_tier[mismatch.tier] += 1
        if len(self.mismatches) < MOST_LISTED:
            self.mismatches.append(mismatch)
            self.found(mismatch)

    def report(self, as_of: datetime) -> Report:
        """What was found up to now."""
        return Report(
            as_of,
            self.buckets,
            self.rollups,
            self.not_verifiable,
            self.left_out,
            self.samples,
            tuple(self.mismatches),
            dict(self.by_tier),
            self.is_complete,
        )
