"""What the installation consists of, read in one go: tiers, and the limits of what is kept."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, select

from aggregator.errors import SchemaOutdatedError
from aggregator.rollups.buckets import Ladder
from aggregator.storage import tables
from aggregator.storage.partitions import Partitioned, rollup_partitions, sealed_beside, sketch_partitions
from aggregator.storage.sealed_spans import Spans, spans_of


@dataclass(frozen=True)
class TierEntry:
    """A tier as it is stored. `parent_id` None: it is built from samples."""

    id: int
    name: str
    ladder: Ladder
    retention: timedelta
    parent_id: int | None

    @property
    def is_finest(self) -> bool:
        """Whether this tier is built from samples."""
        return self.parent_id is None

    @property
    def partitions(self) -> Partitioned:
        """How this tier's part of `rollup` is partitioned."""
        return rollup_partitions(self.name, self.ladder.step, is_finest=self.is_finest)

    @property
    def sketch_partitions(self) -> Partitioned:
        """How this tier's part of `sketch` is partitioned."""
        return sketch_partitions(self.partitions)

    @property
    def sealed_partitions(self) -> tuple[Partitioned, ...]:
        """How this tier's parts of `sealed` and of `clock` are partitioned."""
        return sealed_beside(self.partitions)

    @property
    def spans(self) -> Spans | None:
        """The spans of its sealed rows; None where it is not sealed."""
        return spans_of(self.ladder, self.partitions)


@dataclass(frozen=True)
class Installation:
    """The published settings that stages go by."""

    tiers: tuple[TierEntry, ...]
    lateness: timedelta
    lookback: timedelta
    sample_retention: timedelta

    @property
    def finest(self) -> tuple[TierEntry, ...]:
        """The tiers that are built from samples; usually one."""
        return tuple(tier for tier in self.tiers if tier.is_finest)

    def tier(self, tier_id: int) -> TierEntry | None:
        """The active tier of that id, if there is one."""
        return next((tier for tier in self.tiers if tier.id == tier_id), None)

    def built_from(self, tier_id: int) -> tuple[TierEntry, ...]:
        """The tiers whose buckets are merged from this tier's."""
        return tuple(tier for tier in self.tiers if tier.parent_id == tier_id)


def read_installation(connection: Connection) -> Installation:
    """The installation; raises SchemaOutdatedError where nothing was published yet."""
    row = connection.execute(select(tables.installation)).one_or_none()
    if row is None:
        raise SchemaOutdatedError("nothing was published to this database yet; run `aggregator db migrate`")
    table = tables.tiers
    tiers = connection.execute(select(table).where(table.c.active).order_by(table.c.step_seconds, table.c.id))
    return Installation(
        tiers=tuple(
            TierEntry(
                id=tier.id,
                name=tier.name,
                ladder=Ladder(timedelta(seconds=tier.step_seconds), tier.timezone, months=tier.step_months),
                retention=timedelta(seconds=tier.retention_seconds),
                parent_id=tier.parent_id,
            )
            for tier in tiers
        ),
        lateness=timedelta(seconds=row.lateness_seconds),
        lookback=timedelta(seconds=row.lookback_seconds),
        sample_retention=timedelta(seconds=row.sample_retention_seconds),
    )


def dropped_rollups(connection: Connection) -> dict[int, datetime]:
    """By tier, up to where its partitions were dropped. Uses index: retained_pkey."""
    table = tables.retained
    statement = select(table.c.tier_id, table.c.dropped_before).where(table.c.table_name == "rollup")
    return dict(connection.execute(statement).all())


def dropped_before(connection: Connection, table_name: str, *, tier_id: int = 0) -> datetime | None:
    """Up to where partitions of a table were dropped; None where none was. Uses index: retained_pkey."""
    table = tables.retained
    statement = select(table.c.dropped_before).where(table.c.table_name == table_name, table.c.tier_id == tier_id)
    return connection.execute(statement).scalar_one_or_none()
