"""Rules that come, change and go: their inputs are looked for, and what is kept of their past is marked."""

from __future__ import annotations

from collections.abc import Sequence
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
    before = rules.all_rules(connection)
    names = {rule.name for rule in wanted}
    for stored in before.values():
        if stored.active and stored.name not in names:
            rules.retire(connection, stored)
            rule_inputs.forget_inputs(connection, stored)
    for rule in wanted:
        known = before.get(rule.name)
        if known is None or not known.active or not known.is_defined_as(rule):
            _begin(connection, rule, by=by, now=now)


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
    reach = rule_inputs.kept_reach(connection, rule, tier_id=tier.id)
    if reach is None:
        return
    first, last = reach
    since = first if kept_since is None else max(first, kept_since)
    buckets = list(tier.ladder.starts(since, tier.ladder.end_of(last)))
    ledger.mark_past(connection, buckets, tier_id=tier.id, shard_id=rule.shard_id, now=now)
