"""The health of the installation as the database tells it: what was collected, rolled up and answered, and how late."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, func, select

from aggregator.storage import tables
from aggregator.storage.health_glance import Glance, GlanceReader
from aggregator.storage.health_limits import DatabaseLimits, database_limits
from aggregator.storage.health_sealing import sealing_due
from aggregator.storage.health_sources import (
    SourceHealth,
    TargetHealth,
    last_successes,
    series_counts,
    slots_missed,
    sources_of,
    targets_of,
)
from aggregator.storage.health_tables import partitions_end, table_bytes
from aggregator.storage.health_tiers import Backlog, TierHealth, backlogs, newest_buckets, tiers_of
from aggregator.storage.health_verify import Verification, last_verification
from aggregator.storage.held_partitions import HeldPartitions, held_partitions
from aggregator.storage.measured_bytes import Measured, measure
from aggregator.storage.quarantine import Losses, quarantined

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

#: An answer is kept this many times as long as it took: nothing asked here costs more than a hundredth of a core.
KEPT_PER_COST = 100
LONGEST_KEPT_SECONDS = 60.0


@dataclass(frozen=True)
class NodeHealth:
    """A machine that runs workers, as its worker last reported it."""

    name: str
    last_seen: datetime
    config_hash: str
    version: str


@dataclass(frozen=True)
class SummaryHealth:
    """A named answer, without its value. `computed_at` None: never computed."""

    name: str
    refresh_seconds: float
    computed_at: datetime | None
    version: int
    last_error: str | None
    last_error_at: datetime | None


@dataclass(frozen=True)
class Health:
    """All that the database knows of the installation's health; instants are UTC, lengths are seconds."""

    published_at: datetime | None
    config_hash: str | None
    last_wake: datetime | None
    first_slot: datetime | None
    sources: tuple[SourceHealth, ...]
    targets: tuple[TargetHealth, ...]
    tiers: tuple[TierHealth, ...]
    summaries: tuple[SummaryHealth, ...]
    nodes: tuple[NodeHealth, ...]
    glance: tuple[Glance, ...]
    #: Slots that stages other than collect have missed, by stage.
    slots_missed: dict[str, int]
    #: The end of the last partition, by partitioned table; None where it has none.
    partitions_end: dict[str, datetime | None]
    #: Bytes with indexes and out-of-line values, by table; partitions count for their parent.
    table_bytes: dict[str, int]
    #: How near the server is to its limits; None: nobody asked.
    limits: DatabaseLimits | None = None
    #: When the oldest span that is not sealed fell or falls due, by tier and for samples; None: it holds nothing.
    sealing_due: dict[str, datetime | None] = field(default_factory=dict)
    #: What holds partitions past their retention.
    partitions_held: tuple[HeldPartitions, ...] = ()
    #: What is stored, by tier, form and source; None: it was not measured.
    measured: Measured | None = None
    #: What the newest verification said; None before the first.
    verification: Verification | None = None
    #: Jobs that are set aside because they keep losing their process.
    quarantined: tuple[Losses, ...] = ()
    #: How much the clock of whoever asks is ahead of the server's.
    clock_ahead_seconds: float = 0.0


class HealthReader:
    """Reads the health of one database. Costly answers are kept for a while: it is asked every few seconds for ever."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[float, Any]] = {}
        self._glance = GlanceReader()

    def read(self, connection: Connection, *, now: datetime) -> Health:
        """The health at an instant (UTC, the present)."""
        targets: tuple[TargetHealth, ...] = self._keep("targets", lambda: targets_of(connection, now=now))
        ledger: dict[int, Backlog] = self._keep("dirty", lambda: backlogs(connection))
        tiers = tiers_of(connection)
        newest: dict[int, datetime | None] = self._keep("newest", lambda: newest_buckets(connection, tiers, now=now))
        installation = connection.execute(select(tables.installation)).one_or_none()
        series: dict[int, int] = self._keep("series", lambda: series_counts(connection))
        first_slot = connection.execute(select(func.min(tables.shard_slots.c.first_slot))).scalar_one()
        return Health(
            published_at=installation.published_at if installation else None,
            config_hash=installation.config_hash if installation else None,
            last_wake=connection.execute(select(func.max(tables.wakes.c.woken_at))).scalar_one(),
            first_slot=first_slot,
            sources=self._sources(connection, targets, series, now=now),
            targets=targets,
            tiers=tuple(
                TierHealth.of(tier, ledger.get(tier.id), newest_bucket=newest.get(tier.id), now=now) for tier in tiers
            ),
            summaries=_summaries(connection),
            nodes=_nodes(connection),
            glance=self._glance.read(connection, now=now),
            verification=last_verification(connection),
            slots_missed=_stage_slots_missed(connection),
            partitions_end=self._keep("partitions", lambda: partitions_end(connection)),
            table_bytes=self._keep("bytes", lambda: table_bytes(connection), at_least_seconds=LONGEST_KEPT_SECONDS),
            partitions_held=held_partitions(connection),
            quarantined=tuple(quarantined(connection)),
            measured=self._keep(
                "stored", lambda: measure(connection, series=series), at_least_seconds=LONGEST_KEPT_SECONDS
            ),
            limits=self._keep("limits", lambda: database_limits(connection)),
            sealing_due=self._keep(
                "sealing",
                lambda: sealing_due(connection, newest, first_slot=first_slot) if installation else {},
                at_least_seconds=LONGEST_KEPT_SECONDS,
            ),
        )

    def _sources(
        self, connection: Connection, targets: tuple[TargetHealth, ...], series: dict[int, int], *, now: datetime
    ) -> tuple[SourceHealth, ...]:
        return sources_of(
            connection,
            targets,
            series=series,
            last_success=self._keep("successes", lambda: last_successes(connection, now=now)),
            missed=slots_missed(connection, now=now),
        )

    def _keep(self, name: str, produce: Callable[[], Any], *, at_least_seconds: float = 0) -> Any:  # noqa: ANN401 - any answer
        begun = time.monotonic()
        if (kept := self._kept.get(name)) and kept[0] > begun:
            return kept[1]
        answer = produce()
        ended = time.monotonic()
        seconds = min(LONGEST_KEPT_SECONDS, max(at_least_seconds, KEPT_PER_COST * (ended - begun)))
        self._kept[name] = (ended + seconds, answer)
        return answer


def _summaries(connection: Connection) -> tuple[SummaryHealth, ...]:
    table = tables.summaries
    columns = (table.c[name] for name in SummaryHealth.__dataclass_fields__)
    rows = connection.execute(select(*columns).where(table.c.active).order_by(table.c.name))
    return tuple(SummaryHealth(*row) for row in rows)


def _nodes(connection: Connection) -> tuple[NodeHealth, ...]:
    table = tables.nodes
    rows = connection.execute(
        select(table.c.name, table.c.last_seen, table.c.config_hash, table.c.version).order_by(table.c.name)
    )
    return tuple(NodeHealth(*row) for row in rows)


def _stage_slots_missed(connection: Connection) -> dict[str, int]:
    table = tables.wakes
    stages = ("rollup", "summarize", "maintain", "verify")
    rows = connection.execute(select(table.c.job, table.c.slots_missed).where(table.c.job.in_(stages)))
    return {row.job: row.slots_missed for row in rows}
