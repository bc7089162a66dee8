"""Rules that come, change and go: their inputs are looked for, and what is kept of their past is marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from aggregator.config.model import Rule
from aggregator.storage import catalog, ledger, rule_inputs, rules
from aggregator.storage.catalog import TierEntry
from aggregator.storage.rules import RuleEntry


def publish_rules(connection: Connection, wanted: Sequence[Rule], *, by: str, now: datetime) -> None:
    """Make exactly these rules the active ones. The caller holds the rules alone, and has published the tiers.

    One that is as before is not touched. A changed one keeps its target and shard: all that is kept of it is computed
    anew, each bucket as a whole. One that is gone keeps what it has.
    """
    changes = changes_of(connection, wanted)
    for stored in changes.gone:
        rules.retire(connection, stored)
        rule_inputs.forget_inputs(connection, stored)
    for rule in changes.begun:
        _begin(connection, rule, by=by, now=now)


@dataclass(frozen=True)
class RuleChanges:
    """What publishing rules would do: take some out of force, and begin others. `stored`: all that ever were."""

    gone: tuple[RuleEntry, ...]
    begun: tuple[Rule, ...]
    stored: Mapping[str, RuleEntry]


def changes_of(connection: Connection, wanted: Sequence[Rule]) -> RuleChanges:
    """Which rules are gone, and which are new, changed or back."""
    before = rules.all_rules(connection)
    names = {rule.name for rule in wanted}
    gone = (stored for stored in before.values() if stored.active and stored.name not in names)

    def is_begun(rule: Rule) -> bool:
        known = before.get(rule.name)
        return known is None or not known.active or not known.is_defined_as(rule)

    return RuleChanges(tuple(gone), tuple(filter(is_begun, wanted)), before)


def _begin(connection: Connection, rule: Rule, *, by: str, now: datetime) -> None:
    installation = catalog.read_installation(connection)
    dropped = catalog.dropped_rollups(connection)
    kept_since = max((dropped[tier.id] for tier in installation.finest if tier.id in dropped), default=None)
    step = min(tier.ladder.step for tier in installation.finest)
    stored = rules.store(connection, rule, step=step, kept_since=kept_since, by=by, now=now)
    rule_inputs.find_inputs(connection, stored, now=now)
    for tier in installation.finest:
        _mark_past(connection, stored, tier, kept_since=dropped.get(tier.id), now=now)


def _mark_past(
    connection: Connection, rule: RuleEntry, tier: TierEntry, *, kept_since: datetime | None, now: datetime
) -> None:
    """Mark every bucket from the first to the last in which anything is: to look which are empty costs more."""
    buckets = past_of(tier, rule_inputs.kept_reach(connection, rule, tier_id=tier.id), kept_since=kept_since)
    if buckets:
        ledger.mark_past(connection, buckets, tier_id=tier.id, shard_id=rule.shard_id, now=now)


def past_of(tier: TierEntry, reach: tuple[datetime, datetime] | None, *, kept_since: datetime | None) -> list[datetime]:
    """The buckets of a rule that are computed from its past: all from the first to the last of what it reads."""
    if reach is None:
        return []
    first, last = reach
    since = first if kept_since is None else max(first, kept_since)
    return list(tier.ladder.starts(since, tier.ladder.end_of(last)))
