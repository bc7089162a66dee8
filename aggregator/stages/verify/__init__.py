"""The stage verify: recompute buckets and compare them with what is stored, in one snapshot; it repairs nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from aggregator.stages.verify.inspection import Inspection
from aggregator.stages.verify.report import Findings, Mismatch, Report
from aggregator.storage import catalog, runs, verify_inputs, verify_picks
from aggregator.storage.catalog import Installation, TierEntry
from aggregator.storage.engine import Connection, Database
from aggregator.storage.partitions import SAMPLES
from aggregator.storage.snapshot import snapshot
from aggregator.storage.verify_picks import Within

log = structlog.get_logger(__name__)

LEASE = timedelta(minutes=10)
#: Buckets that a daily verification looks at; a few thousand rollups each in a large installation.
SAMPLE_BUCKETS = 300
#: Rollups (series times buckets) of the finest tier that are held at once.
_MOST_CELLS = 400_000
_MOST_BUCKETS = 60
#: A snapshot of a range is held no longer than a day of it takes: it keeps PostgreSQL from cleaning up.
_WINDOW = timedelta(days=1)

Progress = Callable[[float], None]


@dataclass(frozen=True)
class Sample:
    """About `size` buckets at random, of those that begin in an interval."""

    size: int = SAMPLE_BUCKETS
    within: Within = field(default_factory=Within)


@dataclass(frozen=True)
class Range:
    """All buckets of all tiers that reach into the half-open interval (UTC).

    `begins_earlier`: also those that begin before it.
    """

    since: datetime
    until: datetime
    begins_earlier: bool = True


@dataclass
class Verify:
    """The stage."""

    database: Database
    node: str

    def run(self, *, clock: Callable[[], datetime], slot: datetime, budget: timedelta) -> Report | None:
        """Verify a sample and record what was found; None where another worker has claimed the slot."""
        run_id = self._claim(slot, clock())
        if run_id is None:
            return None
        report = self.look(Sample(), clock=clock, budget=budget, found=_log)

        def record(connection: Connection) -> None:
            verify_picks.add_mismatches(connection, report.by_tier)
            outcome = "mismatches" if report.total else "ok"
            error = f"{report.total:,} mismatches, such as {report.mismatches[0]}" if report.total else None
            runs.finish(connection, run_id, outcome=outcome, rows=report.rollups, now=clock(), error=error)

        self.database.run(record)
        log.info("verified", rollups=report.rollups, mismatches=report.total, not_verifiable=report.not_verifiable)
        return report

    def _claim(self, slot: datetime, now: datetime) -> int | None:
        return self.database.run(
            lambda connection: runs.claim_slot(
                connection, stage="verify", subject="", slot=slot, node=self.node, now=now, lease=LEASE
            )
        )

    def look(
        self,
        scope: Sample | Range,
        *,
        clock: Callable[[], datetime],
        budget: timedelta | None = None,
        found: Callable[[Mismatch], None] = lambda _: None,
        progress: Progress = lambda _: None,
    ) -> Report:
        """Verify, and write nothing. `found` is called with each mismatch, `progress` with the share that is done.

        Raises SchemaOutdatedError where nothing was published, ServerUnreachableError.
        """
        deadline = None if budget is None else time.monotonic() + budget.total_seconds()
        as_of, findings = clock(), Findings(found)
        windows: list[Sample | Range] = [scope] if isinstance(scope, Sample) else list(_windows(scope))
        for number, window in enumerate(windows):
            with snapshot(self.database.engine) as connection:
                installation = catalog.read_installation(connection)
                inspection = Inspection(connection, installation, clock(), findings)
                for share in _look(inspection, window):
                    progress((number + share) / len(windows))
                    if deadline is not None and time.monotonic() > deadline:
                        findings.is_complete = False
                        return findings.report(as_of)
        progress(1.0)
        return findings.report(as_of)


def _log(mismatch: Mismatch) -> None:
    log.error("verify_mismatch", **mismatch.document())


def _windows(scope: Range) -> Iterator[Range]:
    since = scope.since
    while since < scope.until:
        until = min(since + _WINDOW, scope.until)
        yield Range(since, until, begins_earlier=since == scope.since)
        since = until


def _look(inspection: Inspection, scope: Sample | Range) -> Iterator[float]:
    """Look at all of it, and say after each part what share is done."""
    return _look_at_sample(inspection, scope) if isinstance(scope, Sample) else _look_at_range(inspection, scope)


def _look_at_sample(inspection: Inspection, scope: Sample) -> Iterator[float]:
    installation = inspection.installation
    picks = verify_picks.pick_buckets(inspection.connection, installation, size=scope.size, within=scope.within)
    for number, pick in enumerate(picks, start=1):
        tier = installation.tier(pick.tier_id)
        if tier is not None:
            inspection.look_at(pick.shard_id, tier, [pick.bucket])
        yield number / len(picks)


def _look_at_range(inspection: Inspection, scope: Range) -> Iterator[float]:
    shards, tiers = verify_inputs.shards_in(inspection.connection), _tiers_with_data(inspection, scope)
    parts = len(shards) * len(tiers)
    for number, (shard_id, tier) in enumerate((shard_id, tier) for shard_id in shards for tier in tiers):
        at_once = max(1, min(_MOST_BUCKETS, _MOST_CELLS // max(inspection.cells(shard_id), 1)))
        for buckets in _runs_of(_buckets(tier, scope), at_once):
            inspection.look_at(shard_id, tier, buckets)
        yield (number + 1) / parts


def _tiers_with_data(inspection: Inspection, scope: Range) -> list[TierEntry]:
    """The tiers whose partitions, or those of what they are built from, hold anything in the interval."""
    installation: Installation = inspection.installation
    found = []
    for tier in installation.tiers:
        within = Within(tier.ladder.start_of(scope.since), tier.ladder.end_of(tier.ladder.start_of(scope.until)))
        parent = None if tier.parent_id is None else installation.tier(tier.parent_id)
        inputs = (SAMPLES,) if parent is None else (parent.partitions, *parent.sealed_partitions)
        tables = (tier.partitions, *tier.sealed_partitions, *inputs)
        if any(verify_picks.kept_partitions(inspection.connection, table, within=within) for table in tables):
            found.append(tier)
    return found


def _buckets(tier: TierEntry, scope: Range) -> Iterator[datetime]:
    """The buckets that reach into the interval, without those that an earlier window had."""
    starts = tier.ladder.starts(scope.since, scope.until)
    return (start for start in starts if start >= scope.since or scope.begins_earlier)


def _runs_of(buckets: Iterator[datetime], most: int) -> Iterator[list[datetime]]:
    held: list[datetime] = []
    for bucket in buckets:
        held.append(bucket)
        if len(held) == most:
            yield held
            held = []
    if held:
        yield held


__all__ = ["SAMPLE_BUCKETS", "Mismatch", "Range", "Report", "Sample", "Verify", "Within"]
