"""An explanation for a person: a head, then one table for each kind of evidence."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import TypeVar
from zoneinfo import ZoneInfo

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from aggregator.exposition.series import Kind
from aggregator.printable import on_one_line
from aggregator.rollups.statistics import COUNTER_STATISTICS, GAUGE_STATISTICS
from aggregator.serving.explanation import (
    FLAGS,
    ExplainedSample,
    Explanation,
    MissedSlots,
    derived,
    is_unusual,
    length_of,
    shown_instant,
)
from aggregator.serving.explanation_check import Check, total
from aggregator.serving.explanation_document import OUTCOMES
from aggregator.storage.explain import SeriesEntry, StoredCollection, StoredRollup, StoredRun
from aggregator.storage.explain_facts import Facts
from aggregator.storage.explain_rule import RuleFacts

Row = TypeVar("Row")

#: Longer lists are cut: the first ones, the last ones, and at most so many that are unusual stay.
MOST_ROWS = 40
KEPT_AT_AN_END = 8
#: Without a terminal nobody's window limits a line, and a cut table would say less.
_PLAIN_WIDTH = 160


def print_explanation(found: Explanation) -> None:
    """Print it: tables on a terminal, plain text elsewhere."""
    console = Console(soft_wrap=True, highlight=False)
    if not console.is_terminal:
        console = Console(soft_wrap=True, highlight=False, width=_PLAIN_WIDTH)
    for part in _parts(found):
        console.print(part)
    console.print()


def _parts(found: Explanation) -> Iterator[str | Table]:
    facts = found.facts
    yield f"[bold]{escape(on_one_line(_named(facts)))}[/bold]  {facts.series.kind.name.lower()}"
    yield from (f"{name:<10} {escape(on_one_line(text))}" for name, text in _head(found))
    yield from _section("rollup as stored", _rollup_table(facts), facts.rollup is not None)
    yield from _section(f"samples ({len(facts.samples)})", _sample_table(found), bool(found.samples))
    yield from (f"  {name}: {FLAGS[name]}" for name in FLAGS if any(name in one.flags for one in found.samples))
    for level in facts.levels[:1]:
        yield from _section(
            f"built from {level.tier.name} ({len(level.rollups)})",
            _children_table(level.rollups, facts.series.kind),
            bool(level.rollups),
        )
    yield from _section("finer tiers, summed up", _levels_table(facts), len(facts.levels) > 1)
    yield from _section(
        f"collections of {facts.series.address} ({len(facts.collections) + len(facts.arrivals)})",
        _collection_table(found),
        bool(facts.collections or facts.arrivals or found.missed),
    )
    yield from _section(
        f"runs that rolled it up, with others of shard {facts.series.shard_id}", _run_table(facts), bool(facts.runs)
    )
    yield from _section("marks that wait", _mark_table(facts), bool(facts.marks))


def _section(title: str, table: Table, is_there: bool) -> Iterator[str | Table]:  # noqa: FBT001 - private, and read with its call
    if is_there:
        yield f"\n[bold]{escape(on_one_line(title))}[/bold]"
        yield table


def _named(facts: Facts) -> str:
    labels = ",".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in facts.series.labels.items())
    return f"{facts.series.metric}{{{labels}}}"


def _head(found: Explanation) -> Iterator[tuple[str, str]]:
    facts = found.facts
    yield "bucket", _bucket(facts)
    yield "series", _place(facts.series)
    if facts.rule is not None:
        yield "rule", _rule(facts.rule)
    if found.inputs:
        yield "made of", _made_of(found)
    yield "complete", _completeness(found)
    yield "final", "yes" if found.finality.is_final else "no: " + ("; ".join(found.finality.reasons) or "no rollup")
    for check in found.checks:
        yield "check", _check(check, found)
    if facts.rollup is not None and not found.checks:
        yield "check", "not possible: neither its samples nor the rollups that it was built from are kept"
    for note in found.notes:
        yield "note", note


def _rule(rule: RuleFacts) -> str:
    grouping = f"without ({', '.join(rule.without)})" if rule.by is None else f"by ({', '.join(rule.by)})"
    shards = "1 shard" if rule.shards == 1 else f"{rule.shards:,} shards"
    return (
        f"{rule.name} = {rule.select} {grouping}; {rule.present:,} of {rule.series:,} input series have samples here;"
        f" the rule reads {shards}"
    )


def _place(series: SeriesEntry) -> str:
    shard, block, position = (_or_none(one) for one in (series.shard_id, series.block_id, series.position))
    return (
        f"{series.id} of target {series.target_id}, source {series.source}; shard {shard}, block {block},"
        f" position {position}"
    )


def _or_none(value: int | None) -> str:
    return "none" if value is None else str(value)


def _bucket(facts: Facts) -> str:
    text = f"{facts.tier.name}, {shown_instant(facts.start)} to {shown_instant(facts.end)}"
    zone = facts.tier.ladder.timezone
    if zone != "UTC":
        local = " to ".join(instant.astimezone(ZoneInfo(zone)).isoformat() for instant in (facts.start, facts.end))
        text += f" ({local} in {zone})"
    return f"{text}, {length_of(facts).total_seconds():,.0f} s"


def _made_of(found: Explanation) -> str:
    stored = found.facts.rollup.count if found.facts.rollup is not None else 0
    there = (f"{one.count:,} {'as' if one.source == 'samples' else 'in'} {one.source}" for one in found.inputs)
    return f"{stored:,} samples; still there: {', '.join(there)}"


def _completeness(found: Explanation) -> str:
    rollup = found.facts.rollup
    count = found.slots_missed
    missed = {0: "no slot was missed", 1: "1 slot was missed"}.get(count, f"{count:,} slots were missed")
    if rollup is None:
        return f"no rollup; {missed}"
    if found.completeness is None:
        return f"{rollup.count} samples, no slot due"
    return f"{rollup.count} samples / {rollup.slots_due} slots due = {found.completeness:.1%}; {missed}"


def _check(check: Check, found: Explanation) -> str:
    source = {"samples": "the samples", "inputs": "the rollups of its inputs"}.get(
        check.source, f"the rollups of {check.source}"
    )
    if check.is_exact:
        return f"computed anew from {source}: the same, to the last bit"
    if not check.differing:
        return f"computed anew from {source}: the same, within rounding"
    stored = found.facts.rollup.values if found.facts.rollup else {}
    pairs = (f"{name} {_number(check.values[name])}, stored {_number(stored[name])}" for name in check.differing)
    why = "; it is to be rolled up again" if found.is_waiting else ""
    return f"computed anew from {source}: DIFFERS: {'; '.join(pairs)}{why}"


def _number(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:.12g}"  # noqa: PLR0124 - NaN alone differs from itself


def _table(*columns: str, right: Sequence[str] = ()) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", no_wrap=True)
    return table


def _statistics(kind: Kind) -> tuple[str, ...]:
    return COUNTER_STATISTICS if kind is Kind.COUNTER else GAUGE_STATISTICS


def _rollup_table(facts: Facts) -> Table:
    names = ("slots_due", *(n for n in _statistics(facts.series.kind) if n != "last_at" or facts.tier.is_finest))
    more = derived(facts)
    table = _table(*names, *more, right=(*names, *more))
    if facts.rollup is not None:
        values = [facts.rollup.slots_due, *(facts.rollup.values[name] for name in names[1:]), *more.values()]
        table.add_row(*(_number(value) for value in values))
    return table


def _sample_table(found: Explanation) -> Table:
    is_counter = found.facts.series.kind is Kind.COUNTER
    heads = ("time", "value", *(("adds", "after s") if is_counter else ()), "arrived", "")
    table = _table(*heads, right=("value", "adds", "after s"))
    for sample in _shortened(found.samples, lambda one: any(flag != "imported" for flag in one.flags)):
        table.add_row(*(_sample_cells(sample, is_counter=is_counter) if not isinstance(sample, str) else [sample]))
    return table


def _sample_cells(sample: ExplainedSample, *, is_counter: bool) -> list[str]:
    arrived = "its frame is gone" if sample.received_at is None else shown_instant(sample.received_at)
    counted = [_number(sample.delta), _number(sample.seconds)] if is_counter else []
    return [shown_instant(sample.at), _number(sample.value), *counted, arrived, ", ".join(sample.flags)]


def _shortened(rows: Sequence[Row], is_kept: Callable[[Row], bool]) -> Iterator[Row | str]:
    """The rows, or of many the first, the last and the unusual ones, and in between how many were left out."""
    if len(rows) <= MOST_ROWS:
        yield from rows
        return
    left_out, unusual = 0, 0
    for place, row in enumerate(rows):
        if KEPT_AT_AN_END <= place < len(rows) - KEPT_AT_AN_END:
            if unusual == MOST_ROWS or not is_kept(row):
                left_out += 1
                continue
            unusual += 1
        if left_out:
            yield f"... {left_out} more"
            left_out = 0
        yield row


def _children_table(rollups: Sequence[StoredRollup], kind: Kind) -> Table:
    names = ("slots_due", *(name for name in _statistics(kind) if name != "last_at"))
    table = _table("bucket", *names, right=names)
    for one in _shortened(rollups, lambda rollup: rollup.count != rollup.slots_due):
        if isinstance(one, str):
            table.add_row(one)
        else:
            values = (_number(one.values[name]) for name in names[1:])
            table.add_row(shown_instant(one.bucket), str(one.slots_due), *values)
    return table


def _levels_table(facts: Facts) -> Table:
    names = ("increase", "covered") if facts.series.kind is Kind.COUNTER else ("sum",)
    table = _table("tier", "buckets", "count", *names, "kept since", right=("buckets", "count", *names))
    for one in facts.levels:
        numbers = (_number(total(one.rollups, name)) for name in ("count", *names))
        kept = "the beginning" if one.kept_since is None else shown_instant(one.kept_since)
        table.add_row(one.tier.name, str(len(one.rollups)), *numbers, kept)
    return table


def _collection_table(found: Explanation) -> Table:
    table = _table("slot", "outcome", "node", "began", "took s", "samples", "", right=("took s", "samples"))
    entries: list[tuple[datetime, StoredCollection | MissedSlots]] = [
        *((one.slot, one) for one in (*found.facts.collections, *found.facts.arrivals)),
        *((slots.first, slots) for slots in found.missed),
    ]
    ordered = [one for _, one in sorted(entries, key=lambda entry: entry[0])]
    for one in _shortened(ordered, lambda entry: isinstance(entry, MissedSlots) or is_unusual(entry)):
        table.add_row(*(_collection_cells(one) if not isinstance(one, str) else [one]))
    return table


def _collection_cells(one: StoredCollection | MissedSlots) -> list[str]:
    if isinstance(one, MissedSlots):
        more = [] if one.count == 1 else ["", "", "", "", f"{one.count:,} slots, until {shown_instant(one.last)}"]
        return [shown_instant(one.first), "missed", *more]
    slot = shown_instant(one.slot)
    remarks = [*(["by hand"] if one.by_hand else []), *([f"claimed {one.claims} times"] if one.claims > 1 else [])]
    took = f"{one.duration_seconds:.3f}"
    began = shown_instant(one.started_at)
    return [slot, OUTCOMES[one.outcome], one.node, began, took, str(one.samples), ", ".join(remarks)]


def _run_table(facts: Facts) -> Table:
    table = _table("began", "ended", "node", "rows changed", "", right=("rows changed",))
    for one in _shortened(facts.runs, lambda run: run.backfill):
        table.add_row(*(_run_cells(one) if not isinstance(one, str) else [one]))
    return table


def _run_cells(one: StoredRun) -> list[str]:
    ended = "" if one.finished_at is None else shown_instant(one.finished_at)
    rows = "" if one.rows is None else str(one.rows)
    return [shown_instant(one.started_at), ended, one.node, rows, "backfill" if one.backfill else ""]


def _mark_table(facts: Facts) -> Table:
    table = _table("tier", "bucket", "target", "due", "marked", "")
    for one in _shortened(facts.marks, lambda _: False):
        if isinstance(one, str):
            table.add_row(one)
            continue
        tier = facts.installation.tier(one.tier_id)
        target = "all" if one.target_id is None else str(one.target_id)
        due, marked = shown_instant(one.due), shown_instant(one.marked)
        kind = "backfill" if one.backfill else ""
        table.add_row(tier.name if tier else "?", shown_instant(one.bucket), target, due, marked, kind)
    return table
