"""An explanation as JSON holds it: instants in ISO 8601 with Z, lengths in seconds, infinities as Prometheus' text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from aggregator.serving.explanation import Explanation, derived, length_of, shown_instant
from aggregator.serving.explanation_check import total
from aggregator.storage.explain import PendingMark, StoredCollection
from aggregator.storage.explain_facts import Facts, Level
from aggregator.storage.explain_rule import RuleFacts

OUTCOMES = ("pending", "ok", "failed")
#: The statistic that tells most about a kind, for totals of finer tiers.
_TOTALS = ("count", "sum", "increase", "covered")


def document(found: Explanation) -> dict[str, Any]:
    """Everything that an explanation says, as one JSON object."""
    facts = found.facts
    whole = {
        "metric": facts.series.metric,
        "labels": dict(facts.series.labels),
        "kind": facts.series.kind.name.lower(),
        "series": {
            "id": facts.series.id,
            "source": facts.series.source,
            "target": facts.series.address,
            "target_id": facts.series.target_id,
            "shard": facts.series.shard_id,
            "block": facts.series.block_id,
            "position": facts.series.position,
        },
        "tier": facts.tier.name,
        "bucket": bucket(facts),
        "rollup": None if facts.rollup is None else {**facts.rollup.values, "slots_due": facts.rollup.slots_due},
        "derived": derived(facts),
        "rule": None if facts.rule is None else rule(facts.rule),
        "made_of": [asdict(one) for one in found.inputs],
        "completeness": found.completeness,
        "is_final": found.finality.is_final,
        "not_final_because": list(found.finality.reasons),
        "marks": [mark(facts, one) for one in facts.marks],
        "notes": list(found.notes),
        "samples": [asdict(sample) for sample in found.samples],
        "samples_kept_since": facts.samples_kept_since,
        "built_from": [level(one) for one in facts.levels],
        "slots_missed": [asdict(slots) for slots in found.missed],
        "collections": [collection(one) for one in (*facts.collections, *facts.arrivals)],
        "runs": [asdict(run) for run in facts.runs],
        "checks": [
            {"from": one.source, "equal": not one.differing, **_without_source(asdict(one))} for one in found.checks
        ],
    }
    plain: dict[str, Any] = _plain(whole)
    return plain


def rule(facts: RuleFacts) -> dict[str, Any]:
    """The rule that made the series, and how many inputs it has and of how many shards; `present`: in the bucket."""
    names = ("name", "select", "by", "without", "active", "series", "shards", "present")
    return {name: getattr(facts, name) for name in names}


def _without_source(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != "source"}


def bucket(facts: Facts) -> dict[str, Any]:
    """The bucket: start and end, its zone and its length, which a local day's clock change alters."""
    zone = facts.tier.ladder.timezone
    return {"start": facts.start, "end": facts.end, "timezone": zone, "seconds": length_of(facts).total_seconds()}


def mark(facts: Facts, one: PendingMark) -> dict[str, Any]:
    """A mark of the ledger, its tier by name."""
    tier = facts.installation.tier(one.tier_id)
    values = asdict(one)
    del values["tier_id"]
    return {"tier": tier.name if tier else None, **values}


def level(one: Level) -> dict[str, Any]:
    """A finer tier: its totals in the bucket, and each of its rollups there."""
    return {
        "tier": one.tier.name,
        "kept_since": one.kept_since,
        "buckets": len(one.rollups),
        "total": {name: total(one.rollups, name) for name in _TOTALS},
        "rollups": [
            {"bucket": rollup.bucket, "slots_due": rollup.slots_due, **rollup.values} for rollup in one.rollups
        ],
    }


def collection(one: StoredCollection) -> dict[str, Any]:
    """A collection of the target, its outcome as a word."""
    return {**asdict(one), "outcome": OUTCOMES[one.outcome], "taken_over": one.claims > 1}


def _plain(value: Any) -> Any:  # noqa: ANN401 - what JSON can hold
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("+Inf" if value > 0 else "-Inf")
    return shown_instant(value) if isinstance(value, datetime) else value
