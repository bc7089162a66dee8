"""Rules as they are published: what each selects, how its outputs are labelled, and where they lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update

from aggregator.config.model import Rule
from aggregator.config.selector import Selector, parse_selector
from aggregator.exposition.series import Kind, SeriesKey
from aggregator.storage import tables

#: The kind of the source that a rule's target belongs to. No source that is collected has a colon in its name.
KIND = "rule"
SOURCE = "rule:{name}"

_TABLE = tables.rules

# Whoever rolls up holds it shared, from before its first statement; whoever changes rules holds it alone, from before
# his. So a rollup has either read what the rules are now, or what it wrote is there when the rules' past is marked.
_LOCK = func.hashtext("aggregator.rules")


def hold(connection: Connection) -> bool:
    """Keep the rules as they are up to the end of the transaction; False where somebody changes them, or waits to.

    The first statement, so that who holds them alone never waits for what we have.
    """
    return bool(connection.execute(select(func.pg_try_advisory_xact_lock_shared(_LOCK))).scalar_one())


def hold_alone(connection: Connection) -> None:
    """Wait for all rollups that go on, and let none begin before the end of the transaction."""
    connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))


@dataclass(frozen=True)
class RuleEntry:
    """A rule as it is stored. `by`: the labels that its outputs keep; None: all but `without`.

    `defined_since`: buckets before it may hold what an earlier definition gave; None: there was none.
    """

    id: int
    name: str
    selector: Selector
    by: frozenset[str] | None
    without: frozenset[str]
    labels: tuple[tuple[str, str], ...]
    shard_id: int
    target_id: int
    active: bool
    defined_since: datetime | None

    def is_defined_as(self, rule: Rule) -> bool:
        """Whether a rule of the configuration would change nothing."""
        return self.definition == definition_of(rule)

    @property
    def definition(self) -> dict[str, Any]:
        """What is stored of it."""
        by = None if self.by is None else sorted(self.by)
        return {
            "select": str(self.selector),
            "by": by,
            "without": sorted(self.without),
            "labels": dict(self.labels),
        }

    def output_of(self, labels: Mapping[str, str], kind: Kind) -> SeriesKey:
        """The series into which a selected one goes; a label with an empty value is none."""
        kept = {name: value for name, value in labels.items() if self._keeps(name)} | dict(self.labels)
        return SeriesKey(self.name, tuple(sorted((name, value) for name, value in kept.items() if value)), kind)

    def _keeps(self, label: str) -> bool:
        return label not in self.without if self.by is None else label in self.by


def definition_of(rule: Rule) -> dict[str, Any]:
    """What is stored of a rule: the same for all ways of writing the same."""
    return {
        "select": str(parse_selector(rule.select)),
        "by": None if rule.by is None else sorted(set(rule.by)),
        "without": sorted(set(rule.without or ())),
        "labels": dict(sorted(rule.labels.items())),
    }


def all_rules(connection: Connection) -> dict[str, RuleEntry]:
    """Every rule that was ever published, by name. Reads the whole table: people write them."""
    return {row.name: _entry(row) for row in connection.execute(select(_TABLE).order_by(_TABLE.c.id))}


def active_rules(connection: Connection) -> list[RuleEntry]:
    """The rules that are published now, in the order in which all take their locks."""
    return [_entry(row) for row in connection.execute(select(_TABLE).where(_TABLE.c.active).order_by(_TABLE.c.id))]


def rule_of_shard(connection: Connection, shard_id: int) -> RuleEntry | None:
    """The rule whose outputs a shard holds; None for a shard of targets. Uses index: rules_shard_id_key."""
    row = connection.execute(select(_TABLE).where(_TABLE.c.shard_id == shard_id)).one_or_none()
    return None if row is None else _entry(row)


def _entry(row: Row[Any]) -> RuleEntry:
    definition = row.definition
    return RuleEntry(
        id=row.id,
        name=row.name,
        selector=parse_selector(definition["select"]),
        by=None if definition["by"] is None else frozenset(definition["by"]),
        without=frozenset(definition["without"]),
        labels=tuple(sorted(definition["labels"].items())),
        shard_id=row.shard_id,
        target_id=row.target_id,
        active=row.active,
        defined_since=row.defined_since,
    )


def store(
    connection: Connection, rule: Rule, *, step: timedelta, kept_since: datetime | None, by: str, now: datetime
) -> RuleEntry:
    """Store a rule under its name; a new one gets a source, a target and a shard, none of which is ever collected.

    `kept_since`: from when on what it is made of is kept, hence from when on a changed one holds. Uses index:
    rules_name_key.
    """
    definition = definition_of(rule)
    values: dict[str, object] = {"definition": definition, "active": True, "defined_since": kept_since}
    changed = update(_TABLE).where(_TABLE.c.name == rule.name).values(values)
    row = connection.execute(changed.returning(*_TABLE.c)).one_or_none()
    if row is None:
        place = _make_place(connection, rule.name, step=step, by=by, now=now)
        values = {"name": rule.name, "definition": definition, "active": True, **place}
        row = connection.execute(insert(_TABLE).values(values).returning(*_TABLE.c)).one()
    return _entry(row)


def _make_place(connection: Connection, name: str, *, step: timedelta, by: str, now: datetime) -> dict[str, int]:
    """The target and the shard of a new rule. Neither is active: only what is collected is."""
    sources, shards, targets = tables.sources, tables.shards, tables.targets
    source = {"name": SOURCE.format(name=name), "kind": KIND, "definition": {"kind": KIND}, "active": False}
    source |= {"interval_seconds": step.total_seconds(), "offset_seconds": 0.0, "published_at": now, "published_by": by}
    source_id = connection.execute(insert(sources).values(source).returning(sources.c.id)).scalar_one()
    shard_id = connection.execute(insert(shards).values(source_id=source_id).returning(shards.c.id)).scalar_one()
    target = {"source_id": source_id, "shard_id": shard_id, "address": name, "labels": {}, "active": False}
    statement = insert(targets).values(**target, created_at=now).returning(targets.c.id)
    return {"shard_id": shard_id, "target_id": connection.execute(statement).scalar_one()}


def retire(connection: Connection, rule: RuleEntry) -> None:
    """Take a rule out of force; what it has computed stays. Uses index: rules_pkey."""
    connection.execute(update(_TABLE).where(_TABLE.c.id == rule.id).values(active=False))
