"""Looking at buckets of one snapshot: which are left out, and what the others are judged by."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from aggregator.stages.verify import selftest
from aggregator.stages.verify.judge import Gone, Judge
from aggregator.stages.verify.recompute import from_rollups, from_samples, parts
from aggregator.stages.verify.report import Findings, Mismatch
from aggregator.storage import registry, rule_inputs, rules, verify_inputs
from aggregator.storage.catalog import Installation, TierEntry
from aggregator.storage.engine import Connection
from aggregator.storage.rollup_forms import read_rollups
from aggregator.storage.rollup_matrix import Stored
from aggregator.storage.rule_inputs import Inputs
from aggregator.storage.rule_rollups import added_up
from aggregator.storage.rules import RuleEntry
from aggregator.storage.verify_inputs import ShardSeries

#: The shortest interval that can be configured; one that was changed since is not known.
_SHORTEST_INTERVAL = timedelta(seconds=1)
#: Inputs of a rule (series times buckets) that are held at once.
_MOST_INPUT_CELLS = 400_000


@dataclass(frozen=True)
class _Shard:
    """What is remembered of the shard that is looked at."""

    id: int
    series: ShardSeries
    members: dict[int, selftest.Member]
    interval: timedelta
    rule: RuleEntry | None
    inputs: Inputs | None


@dataclass
class Inspection:
    """What one snapshot shows. `now`: buckets that end later are open, and left out."""

    connection: Connection
    installation: Installation
    now: datetime
    findings: Findings
    kept_since: dict[int | None, datetime | None] = field(default_factory=dict)
    _shard: _Shard | None = None

    def cells(self, shard_id: int) -> int:
        """How many series one bucket of a shard has."""
        return len(self._of(shard_id).series)

    def look_at(self, shard_id: int, tier: TierEntry, buckets: Sequence[datetime]) -> None:
        """Verify consecutive buckets of one tier of a shard; what cannot be read is a mismatch of the whole row."""
        shard = self._of(shard_id)
        clean = self._clean(shard_id, tier, buckets)
        if shard.rule is not None:
            clean = self._computable(shard.rule, tier, clean)
        self.findings.left_out += len(buckets) - len(clean)
        if not clean or not len(shard.series):
            return
        try:
            if tier.is_finest and shard.inputs is not None:
                self._ruled(tier, sorted(clean), shard=shard, inputs=shard.inputs)
            elif tier.is_finest:
                self._finest(tier, buckets, clean=clean, shard=shard)
            else:
                self._coarse(tier, sorted(clean), shard=shard)
        except ValueError as error:  # an element or a whole array is NULL, or lengths differ
            self.findings.add(Mismatch(tier.name, buckets[0], "", {}, "row", None, None, str(error)))

    def _of(self, shard_id: int) -> _Shard:
        """A shard; only the last one is kept, for who asks goes shard by shard."""
        if self._shard is None or self._shard.id != shard_id:
            rule = rules.rule_of_shard(self.connection, shard_id)
            series = verify_inputs.read_shard_series(self.connection, shard_id, rule=rule)
            inputs = None if rule is None else rule_inputs.inputs_by_labels(self.connection, rule)
            interval = min(registry.slots_of_shard(self.connection, shard_id).interval, _SHORTEST_INTERVAL)
            self._shard = _Shard(shard_id, series, selftest.members(self.connection, series), interval, rule, inputs)
        return self._shard

    def _kept_since(self, tier_id: int | None) -> datetime | None:
        """From when on all rollups of a tier, or with None all samples, are there; None: from ever on."""
        if tier_id not in self.kept_since:
            if tier_id is None:
                self.kept_since[tier_id] = verify_inputs.samples_kept_since(self.connection)
            else:
                self.kept_since[tier_id] = verify_inputs.rollups_kept_since(self.connection, tier_id)
        return self.kept_since[tier_id]

    def _clean(self, shard_id: int, tier: TierEntry, buckets: Sequence[datetime]) -> set[datetime]:
        """The buckets that have ended and whose input does not wait in the ledger.

        For the finest tier also that of the lookback before: what changes there changes the first difference here.
        """
        before = self.installation.lookback if tier.is_finest else timedelta(0)
        since, until = tier.ladder.start_of(buckets[0] - before), tier.ladder.end_of(buckets[-1])
        marks = verify_inputs.dirty_buckets(self.connection, shard_id, since=since, until=until)
        chain = {one.id for one in self._built_from(tier)}
        dirty = sorted(bucket for tier_id, bucket in marks if tier_id in chain)
        return {bucket for bucket in buckets if self._is_clean(tier, bucket, dirty, before=before)}

    def _is_clean(self, tier: TierEntry, bucket: datetime, dirty: Sequence[datetime], *, before: timedelta) -> bool:
        end, first = tier.ladder.end_of(bucket), tier.ladder.start_of(bucket - before)
        return end <= self.now and not any(first <= one < end for one in dirty)

    def _built_from(self, tier: TierEntry) -> list[TierEntry]:
        """The tier, the one that it is built from, and so on down to the finest."""
        chain, parent = [tier], self._parent(tier)
        while parent is not None:
            chain.append(parent)
            parent = self._parent(parent)
        return chain

    def _parent(self, tier: TierEntry) -> TierEntry | None:
        return None if tier.parent_id is None else self.installation.tier(tier.parent_id)

    def _judge(self, tier: TierEntry, shard: _Shard) -> Judge:
        return Judge(
            self.connection,
            self.findings,
            tier,
            shard.series,
            shard.members,
            self.installation.lookback,
            shard.interval,
            self._kept_since(tier.id),
        )

    def _finest(
        self, tier: TierEntry, buckets: Sequence[datetime], *, clean: Collection[datetime], shard: _Shard
    ) -> None:
        kept_since = self._kept_since(tier.parent_id)
        since, until = buckets[0], tier.ladder.end_of(buckets[-1])
        judge = self._judge(tier, shard)
        found = self._stored(tier, shard.series, since=since, until=until)
        nothing = Stored.nothing(len(shard.series.grid.block_ids))
        for one in from_samples(
            self.connection,
            tier,
            buckets,
            series=shard.series,
            lookback=self.installation.lookback,
            kept_since=kept_since,
            stored=found,
        ):
            judge.samples(one.samples, bucket=one.bucket)
            if one.bucket in clean:
                rows = found.get(one.bucket, nothing)
                before = one.bucket - self.installation.lookback
                edge_is_gone = _is_before(before, kept_since) and _is_before(before, judge.kept_since)
                gone = Gone(_is_before(one.bucket, kept_since), edge_is_gone)
                self.findings.buckets += judge.rollups(rows, one.statistics, bucket=one.bucket, gone=gone)
                judge.slots(rows, bucket=one.bucket)
        stored = {bucket: shard.series.statistics_of(rows) for bucket, rows in found.items() if bucket in clean}
        judge.sketches(stored, since=since, until=until)

    def _computable(self, rule: RuleEntry, tier: TierEntry, buckets: Collection[datetime]) -> set[datetime]:
        """The buckets of a rule that are made by its definition, of input that is all there; none is made of a part."""
        if tier.is_finest:
            limits = [self._kept_since(tier.id)]
        else:
            limits = [self._kept_since(tier.parent_id), rule.defined_since]
        since = [limit for limit in limits if limit is not None]
        is_made = rule.active or not tier.is_finest
        return {bucket for bucket in buckets if is_made and all(bucket >= limit for limit in since)}

    def _ruled(self, tier: TierEntry, buckets: Sequence[datetime], *, shard: _Shard, inputs: Inputs) -> None:
        """Outputs against the stored rollups of what the rule selects, by name and labels."""
        judge, series = self._judge(tier, shard), shard.series
        found = self._stored(tier, series, since=buckets[0], until=tier.ladder.end_of(buckets[-1]))
        nothing = Stored.nothing(len(series.grid.block_ids))
        for bucket, one in added_up(
            self.connection, tier, buckets, inputs=inputs, output_ids=series.ids, most_cells=_MOST_INPUT_CELLS
        ):
            rows = found.get(bucket, nothing)
            self.findings.buckets += judge.rollups(rows, one.statistics, bucket=bucket, gone=Gone(input=False))
            judge.output_slots(rows, one.slots, bucket=bucket)

    def _coarse(self, tier: TierEntry, buckets: Sequence[datetime], *, shard: _Shard) -> None:
        parent = self._parent(tier)
        if parent is None:
            return  # the tier that it was built from is no longer configured
        kept_since, seen = self._kept_since(tier.parent_id), set()
        for part in parts(tier, parent, buckets, series=shard.series):
            members = selftest.of_part(shard.members, part.places)
            judge = self._judge(tier, replace(shard, series=part.series, members=members))
            found = self._stored(tier, part.series, since=part.since, until=part.until)
            nothing = Stored.nothing(len(part.series.grid.block_ids))
            for one in from_rollups(self.connection, parent, part):
                rows = found.get(one.bucket, nothing)
                gone = Gone(_is_before(one.bucket, kept_since))
                if judge.rollups(rows, one.statistics, bucket=one.bucket, gone=gone):
                    seen.add(one.bucket)
                if one.slots is not None:
                    judge.output_slots(rows, one.slots, bucket=one.bucket)
                else:
                    judge.slots(rows, bucket=one.bucket, finer=one)
            stored = {bucket: part.series.statistics_of(found[bucket]) for bucket in part.finer if bucket in found}
            judge.sketches(stored, since=part.since, until=part.until)
        self.findings.buckets += len(seen)

    def _stored(
        self, tier: TierEntry, series: ShardSeries, *, since: datetime, until: datetime
    ) -> Mapping[datetime, Stored]:
        return read_rollups(self.connection, tier, grid=series.grid, since=since, until=until)


def _is_before(instant: datetime, kept_since: datetime | None) -> bool:
    return kept_since is not None and instant < kept_since
