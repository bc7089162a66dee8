"""Sources, summaries and rules of a plan: which come, change and go, and what is computed anew for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from sqlalchemy import Connection, select

from aggregator.config.model import Rule, Summary
from aggregator.config.selector import parse_selector
from aggregator.config.source_model import Source
from aggregator.storage import catalog, rule_inputs, rules, tables
from aggregator.storage.catalog import Installation
from aggregator.storage.measured_bytes import Measured
from aggregator.storage.plan_changes import Action, Change
from aggregator.storage.publish_summaries import asks_the_same
from aggregator.storage.rule_changes import changes_of, past_of
from aggregator.storage.rules import RuleEntry

_SOURCE: TypeAdapter[Source] = TypeAdapter(Source)
_SUMMARY: TypeAdapter[Summary] = TypeAdapter(Summary)


def source_changes(connection: Connection, wanted: Sequence[Source], measured: Measured) -> Iterator[Change]:
    """Sources that come, change or go. Whatever was collected stays until its retention has passed."""
    rows = connection.execute(select(tables.sources).where(tables.sources.c.kind != rules.KIND))
    stored = {row.name: row for row in rows}
    for source in wanted:
        row = stored.get(source.name)
        if row is None:
            yield Change("source", source.name, "added", "is collected from now on")
        elif not row.active:
            yield Change("source", source.name, "added", "is collected again; its series go on")
        elif fields := _differing(_SOURCE, row.definition, source):
            yield Change("source", source.name, "changed", f"{', '.join(fields)}; its series go on")
    names = {source.name for source in wanted}
    for name, row in sorted(stored.items()):
        if row.active and name not in names:
            effect = f"is no longer collected; its {measured.series.get(row.id, 0):,} series stay until their retention"
            yield Change("source", name, "removed", effect, size_bytes=measured.bytes_of(row.id))


def summary_changes(connection: Connection, wanted: Sequence[Summary]) -> Iterator[Change]:
    """Summaries that come, change or go."""
    table = tables.summaries
    stored = dict(connection.execute(select(table.c.name, table.c.definition).where(table.c.active)).all())
    for summary in wanted:
        definition = stored.get(summary.name)
        if definition is None:
            yield Change("summary", summary.name, "added", "is computed at the next wake")
        elif not asks_the_same(summary, definition):
            yield Change("summary", summary.name, "changed", "its answer is forgotten and computed at the next wake")
        elif fields := _differing(_SUMMARY, definition, summary):
            yield Change("summary", summary.name, "changed", f"{', '.join(fields)}; its answer stays")
    for name in sorted(stored.keys() - {summary.name for summary in wanted}):
        yield Change("summary", name, "removed", "is no longer refreshed")


def rule_changes(connection: Connection, wanted: Sequence[Rule], after: Installation) -> Iterator[Change]:
    """Rules that come, change or go, and how many buckets of the finest tiers are computed for them."""
    changes = changes_of(connection, wanted)
    dropped = catalog.dropped_rollups(connection)
    for rule in changes.begun:
        stored = changes.stored.get(rule.name)
        yield _begun(connection, rule, stored, after, dropped)
    for entry in changes.gone:
        yield Change("rule", entry.name, "removed", "is no longer computed; what it has made stays")


def _begun(
    connection: Connection, rule: Rule, stored: RuleEntry | None, after: Installation, dropped: Mapping[int, Any]
) -> Change:
    blocks = rule_inputs.blocks_selected(connection, parse_selector(rule.select))
    blocks += rule_inputs.blocks_of_outputs(connection, stored) if stored else []
    buckets, since = 0, []
    for tier in after.finest:
        reach = rule_inputs.reach_of(connection, blocks, tier_id=tier.id)
        past = past_of(tier, reach, kept_since=dropped.get(tier.id))
        buckets += len(past)
        since += past[:1]
    names = ", ".join(tier.name for tier in after.finest)
    effect = f"{buckets:,} buckets of {names}, and the tiers above, are computed from {len(blocks):,} blocks of inputs"
    action: Action = "changed" if stored is not None and stored.active else "added"
    return Change("rule", rule.name, action, effect, buckets=buckets, since=min(since, default=None))


def _differing(adapter: TypeAdapter[Any], definition: Mapping[str, Any], wanted: BaseModel) -> list[str]:
    """The fields that differ from what is stored; a default counts as if it were written."""
    try:
        before = adapter.validate_python(definition).model_dump(mode="json")
    except ValidationError:
        before = {}
    after = wanted.model_dump(mode="json")
    return [name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]
