"""Why a number is what it is: from what is stored about a bucket to what a person can follow. Pure: no I/O."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from aggregator.config.duration import format_duration
from aggregator.exposition.series import Kind
from aggregator.rollups.buckets import floor_to
from aggregator.serving.explanation_check import Check, checks_of
from aggregator.stages.collect.marking import SETTLE
from aggregator.storage.explain import StoredCollection
from aggregator.storage.explain_facts import Facts, Level
from aggregator.storage.explain_rule import RuleFacts
from aggregator.storage.explain_samples import StoredSample

#: Names of what is unusual about a sample, and what each means; for the legend.
FLAGS = {
    "edge": "the last sample before the bucket: the first difference begins with it",
    "first": "no earlier sample within the lookback: counts no difference",
    "reset": "the counter fell: it is taken to have begun anew at 0",
    "late": "came after its bucket was due to be rolled up",
    "imported": "came by no collection: an import brought it",
}


@dataclass(frozen=True)
class ExplainedSample:
    """A sample and what it adds to a counter's increase.

    `delta` None: it counts none, as with every gauge. `seconds`: since the sample before, within the lookback.
    """

    at: datetime
    value: float
    received_at: datetime | None
    delta: float | None
    seconds: float | None
    flags: tuple[str, ...]


@dataclass(frozen=True)
class Finality:
    """Whether a rollup is final, and what keeps it from being so, one sentence each."""

    is_final: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class MissedSlots:
    """Slots in a row that nobody claimed: the first and the last one, and how many."""

    first: datetime
    last: datetime
    count: int


@dataclass(frozen=True)
class Input:
    """What is still there of what a rollup was made of: the samples that a finer tier counts, or `samples` as such.

    For an output of a rule those that its `inputs` count in the bucket's tier.
    """

    source: str
    count: int


@dataclass(frozen=True)
class Explanation:
    """A bucket of a series: the facts, and what follows from them.

    `inputs`: the finer tiers from the coarsest down, then the samples; empty without a rollup. `missed`: slots that
    should have been collected in the bucket. `notes`: what is not there or unusual, one sentence each.
    """

    facts: Facts
    samples: tuple[ExplainedSample, ...]
    inputs: tuple[Input, ...]
    finality: Finality
    missed: tuple[MissedSlots, ...]
    checks: tuple[Check, ...]
    notes: tuple[str, ...]

    @property
    def completeness(self) -> float | None:
        """Samples over slots due, at most 1; None without a rollup or without a slot."""
        rollup = self.facts.rollup
        if rollup is None or not rollup.slots_due:
            return None
        return min(1.0, rollup.count / rollup.slots_due)

    @property
    def is_contradicted(self) -> bool:
        """Whether what is stored differs from what its input gives though nothing waits to be rolled up."""
        return not self.is_waiting and any(check.differing for check in self.checks)

    @property
    def is_waiting(self) -> bool:
        """Whether the bucket, or the one whose last sample it begins with, is to be rolled up again."""
        return bool(self.facts.marks or self.facts.marks_before)

    @property
    def slots_missed(self) -> int:
        """How many slots were missed in all."""
        return sum(slots.count for slots in self.missed)


def explain(facts: Facts) -> Explanation:
    """What the stored facts say about the bucket."""
    return Explanation(
        facts=facts,
        samples=tuple(_explained_samples(facts)),
        inputs=tuple(_inputs(facts)),
        finality=_finality(facts),
        missed=tuple(_in_a_row(_missed_slots(facts), facts.series.slots.interval)),
        checks=tuple(checks_of(facts)),
        notes=tuple(_notes(facts)),
    )


def derived(facts: Facts) -> dict[str, float | None]:
    """What views make of the stored statistics: avg and stddev of a gauge, rate of a counter (docs/statistics.md)."""
    if facts.rollup is None:
        return {}
    values, count = facts.rollup.values, facts.rollup.count
    if facts.series.kind is Kind.COUNTER:
        return {"rate": _quotient(values["increase"], values["covered"])}
    variance = _quotient(values["m2"], count)
    return {
        "avg": _quotient(values["sum"], count),
        "stddev": None if variance is None else math.sqrt(variance),
    }


def _quotient(dividend: float | None, divisor: float | None) -> float | None:
    if dividend is None or not divisor or math.isnan(dividend) or math.isnan(divisor):
        return None
    return dividend / divisor


def _explained_samples(facts: Facts) -> Iterator[ExplainedSample]:
    """The edge, where a counter has one, then the samples of the bucket."""
    is_counter = facts.series.kind is Kind.COUNTER
    before = facts.edge if is_counter else None
    if before is not None:
        received_at = before.received_at if facts.edge_is_sample else None
        yield ExplainedSample(before.at, before.value, received_at, None, None, ("edge",))
    for sample in facts.samples:
        is_near = before is not None and sample.at - before.at <= facts.installation.lookback
        delta = _delta(before, sample) if is_near and before is not None else None
        flags = [
            *(["first"] if is_counter and not is_near else []),
            *(["reset"] if is_near and before is not None and sample.value < before.value else []),
            *_arrival_flags(facts, sample),
        ]
        seconds = (sample.at - before.at).total_seconds() if is_near and before is not None else None
        yield ExplainedSample(sample.at, sample.value, sample.received_at, delta, seconds, tuple(flags))
        before = sample if is_counter else None


def _delta(before: StoredSample, sample: StoredSample) -> float | None:
    """What a counter grew by between two samples; None where that is not finite, which counts as nothing."""
    delta = sample.value if sample.value < before.value else sample.value - before.value
    return delta if math.isfinite(delta) else None


def _arrival_flags(facts: Facts, sample: StoredSample) -> Iterator[str]:
    if sample.received_at in facts.imports:
        yield "imported"
    elif is_late(facts, sample):
        yield "late"


def is_late(facts: Facts, sample: StoredSample) -> bool:
    """Whether a sample came after its bucket in the finest tier was due to be rolled up."""
    ladder = facts.finest.ladder
    return sample.received_at > ladder.end_of(ladder.start_of(sample.at)) + SETTLE


def _inputs(facts: Facts) -> Iterator[Input]:
    if facts.rollup is None:
        return
    for level in facts.levels:
        yield Input(level.tier.name, _counted(level))
    if facts.rule is None:
        yield Input("samples", len(facts.samples))
    else:
        yield Input("inputs", int(facts.rule.statistics.count[0]))


def _counted(level: Level) -> int:
    return sum(rollup.count for rollup in level.rollups)


def _finality(facts: Facts) -> Finality:
    reasons = tuple(_open_reasons(facts))
    return Finality(facts.rollup is not None and not reasons, reasons)


def _open_reasons(facts: Facts) -> Iterator[str]:
    lateness = facts.installation.lateness
    if facts.now < facts.end:
        yield f"its bucket ends at {shown_instant(facts.end)}"
    elif facts.now < facts.end + lateness:
        last = shown_instant(facts.end + lateness)
        yield f"samples may come late for {format_duration(lateness)} after its end, until {last}"
    if facts.marks:
        waits = "1 mark of its time waits" if len(facts.marks) == 1 else f"{len(facts.marks):,} marks of its time wait"
        inputs = "" if facts.rule is None else " and of its inputs'"
        yield f"{waits} in the ledger of shard {facts.series.shard_id}{inputs}"


def _missed_slots(facts: Facts) -> Iterator[datetime]:
    """Slots due in the bucket that no collection of the target claimed, as far as collections are kept."""
    if facts.first_slot is None:
        return
    grid = facts.series.slots
    claimed = {one.slot for one in facts.collections if not one.by_hand}
    since = max(facts.slots_since, facts.first_slot, facts.collections_kept_since or facts.slots_since)
    # The newest slot may still be on its way.
    until = min(facts.end - grid.offset, facts.now - grid.offset - grid.interval)
    slot = floor_to(since, grid.interval)
    slot += grid.interval if slot < since else timedelta(0)
    while slot < until:
        if slot not in claimed:
            yield slot
        slot += grid.interval


def _in_a_row(slots: Iterable[datetime], interval: timedelta) -> Iterator[MissedSlots]:
    held: MissedSlots | None = None
    for slot in slots:
        if held is not None and slot - held.last == interval:
            held = MissedSlots(held.first, slot, held.count + 1)
            continue
        if held is not None:
            yield held
        held = MissedSlots(slot, slot, 1)
    if held is not None:
        yield held


def is_unusual(one: StoredCollection) -> bool:
    """Whether a collection is worth a look: it did not end well, was asked for by hand, or was taken over."""
    return one.outcome != 1 or one.by_hand or one.claims > 1


def _notes(facts: Facts) -> Iterator[str]:
    stored = facts.rollup.count if facts.rollup is not None else None
    kept = facts.samples_kept_since
    if facts.rule is not None:
        yield from _notes_of_rule(facts, facts.rule)
    elif kept is not None and kept > facts.start and (stored is None or len(facts.samples) < stored):
        yield f"samples before {shown_instant(kept)} are gone"
    elif facts.rollup is None and not facts.samples:
        yield "no sample of this series was stored in this bucket, so there is no number"
    elif facts.rollup is None:
        yield "it has samples that are not rolled up yet"
    for level in facts.levels:
        is_cut = level.kept_since is not None and level.kept_since > facts.start
        if level.kept_since is not None and is_cut and (stored is None or _counted(level) < stored):
            yield f"rollups of {level.tier.name} before {shown_instant(level.kept_since)} are gone"
    if facts.collections_kept_since is not None and facts.collections_kept_since > facts.start:
        yield f"what was collected before {shown_instant(facts.collections_kept_since)} is no longer known"


def _notes_of_rule(facts: Facts, rule: RuleFacts) -> Iterator[str]:
    if facts.rollup is None:
        yield "no input of this rule has samples in this bucket, or it is not rolled up yet"
    if not rule.active:
        yield f"rule {rule.name} is no longer configured: what it computed stays as it is"


def shown_instant(instant: datetime) -> str:
    """An instant (UTC) to the millisecond where it has any: `2026-01-31T12:00:00Z`."""
    spec = "milliseconds" if instant.microsecond else "seconds"
    return instant.isoformat(timespec=spec).replace("+00:00", "Z")


def length_of(facts: Facts) -> timedelta:
    """How long the bucket is: a local day may have 23 or 25 hours."""
    return facts.end - facts.start
