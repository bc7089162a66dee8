"""One transaction of the stage: the due buckets of one tier of a locked shard, span by span."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import numpy.typing as npt

from aggregator.rollups.buckets import SlotGrid
from aggregator.stages.rollup import sketching
from aggregator.stages.rollup.coarse import Coarse
from aggregator.stages.rollup.finest import Finest, Shape
from aggregator.stages.rollup.parts import CollectedParts, OutputParts
from aggregator.stages.rollup.ruled import OUTPUTS_SETTLE, Outputs, Ruled
from aggregator.stages.rollup.sketching import MergedBucket, SampledBucket
from aggregator.stages.rollup.spans import MOST_CELLS, Span, spans
from aggregator.storage import blocks, catalog, frames, ledger, partition_writes, partitions, registry, rule_inputs
from aggregator.storage.blocks import BLOCK_SERIES, Grid, Layout, LayoutCache
from aggregator.storage.catalog import Installation, TierEntry
from aggregator.storage.engine import Connection
from aggregator.storage.rollup_forms import write_rollups
from aggregator.storage.rollup_rows import Changed, TierRows
from aggregator.storage.rules import RuleEntry


@dataclass
class Transaction:
    """The work of one tier on one locked shard. `cells`: how many a bucket of the shard has, or of what it reads.

    `rule`: whose outputs the shard holds; None: it holds series of targets.
    """

    connection: Connection
    installation: Installation
    tier: TierEntry
    shard_id: int
    backfill: bool
    now: datetime
    layouts: LayoutCache
    slots: SlotGrid
    cells: int
    rule: RuleEntry | None = None
    complete_layouts: dict[int, Layout] = field(default_factory=dict)

    def run(self, work: ledger.Work) -> int:
        """Compute and write what was taken off the ledger, and mark what follows; gives the rows written."""
        if self.tier.is_finest:
            found = spans(work.targets, self.tier.ladder, cells=self.cells)
            if self.rule is not None:
                return self._ruled(self.rule, found)
            return sum(self._finest(work, span) for span in found)
        parent = self.installation.tier(self.tier.parent_id or 0)
        if parent is None:
            return 0
        targets = work.targets if self.rule is None else self._whole(self.rule, parent, work.targets)
        # Of one block all children of a span are held at once: a month may be made of 5m.
        children = round(self.tier.ladder.step / parent.ladder.step) * BLOCK_SERIES
        found = spans(targets, self.tier.ladder, cells=max(self.cells, children))
        return sum(self._coarse(parent, span) for span in found)

    def _finest(self, work: ledger.Work, span: Span) -> int:
        """From samples. Frames first, then places: a series that a frame has is registered, so it is placed here."""
        read = self._frames(work, span)
        if not read:
            return 0
        shape = Shape.of(self._layouts(frame for bucket in read.values() for frame in bucket))
        stage = Finest(self.connection, self.tier, shape, self.slots, self.installation.lookback)
        computed = stage.compute(span, read)
        target_of = {frame.map_id: frame.target_id for bucket in read.values() for frame in bucket}
        after = [
            ledger.Mark(self.tier.id, self.shard_id, bucket, self.now, target_id, self.backfill)
            for bucket, cells in computed.successors.items()
            for target_id in _targets(cells, shape, target_of)
        ]
        ledger.mark(self.connection, after, now=self.now)
        rows = self._store(shape.cells.grid, computed.changed)
        self._mark_rules(shape.cells.grid, computed.changed)
        end_of = self.tier.ladder.end_of
        sampled = [SampledBucket(one.bucket, end_of(one.bucket), one.values, one.better) for one in computed.sampled]
        sketched = sketching.finest(self.connection, self.tier, sampled, cells=shape.cells)
        self._mark_above({*sketched, *(one.bucket for one in computed.changed)})
        return rows

    def _frames(self, work: ledger.Work, span: Span) -> dict[datetime, list[frames.Frame]]:
        """By bucket the frames of the targets that are dirty in it, oldest first."""
        wanted: set[int] = set()
        for bucket in span.buckets:
            targets = work.targets[bucket]
            wanted.update(targets if targets is not None else registry.targets_of_shard(self.connection, self.shard_id))
        found: defaultdict[datetime, list[frames.Frame]] = defaultdict(list)
        dirty = set(span.buckets)
        read = frames.read_frames_as_stored(
            self.connection, target_ids=sorted(wanted), since=span.since, until=span.until
        )
        for frame in read:
            bucket = self.tier.ladder.start_of(frame.at)
            if bucket in dirty and ((targets := work.targets[bucket]) is None or frame.target_id in targets):
                found[bucket].append(frame)
        return found

    def _layouts(self, read: Iterable[frames.Frame]) -> dict[int, Layout]:
        lengths: dict[int, int] = {}
        for frame in read:
            lengths[frame.map_id] = max(frame.length, lengths.get(frame.map_id, 0))
        layouts = self.layouts.read(self.connection, lengths)
        if not all(layout.is_placed for layout in layouts.values()):
            placed = blocks.place_new_series(self.connection, self.shard_id)
            rule_inputs.note_placed(self.connection, placed, shard_id=self.shard_id, now=self.now)
            layouts = self.layouts.read(self.connection, lengths)
            if not all(layout.is_placed for layout in layouts.values()):
                raise AssertionError("a series that a frame has is placed by the shard of its target")
        self.complete_layouts.update(layouts)
        return layouts

    def _coarse(self, parent: TierEntry, span: Span) -> int:
        """From the rollups of the tier that this one is built from, some blocks at a time."""
        rows = 0
        for grid in _slices(blocks.shard_grid(self.connection, self.shard_id), span, parent):
            parts = CollectedParts(self.slots) if self.rule is None else OutputParts()
            stage = Coarse(self.connection, self.tier, parent, grid, parts)
            changed, merged = stage.compute(span)
            rows += self._store(grid, changed)
            end_of = self.tier.ladder.end_of
            buckets = [MergedBucket(one.bucket, end_of(one.bucket), one.better) for one in merged]
            sketched = sketching.coarse(self.connection, self.tier, parent, buckets, grid=grid)
            self._mark_above({*sketched, *(one.bucket for one in changed)})
        return rows

    def _mark_rules(self, grid: Grid, changed: Sequence[Changed]) -> None:
        """Mark the buckets of the rules that read what has changed, in the transaction that changed it."""
        if not changed:
            return
        lines = np.logical_or.reduce([one.lines for one in changed])
        reading = rule_inputs.rules_reading(self.connection, grid.block_ids[lines].tolist())
        if not reading:
            return
        marks: list[ledger.Mark] = []
        for one in changed:
            found = (reading.get(block_id, frozenset()) for block_id in grid.block_ids[one.lines].tolist())
            due = max(self.now, self.tier.ladder.end_of(one.bucket) + OUTPUTS_SETTLE)
            marks += (
                ledger.Mark(self.tier.id, shard_id, one.bucket, due, None, self.backfill)
                for shard_id in sorted(frozenset().union(*found))
            )
        ledger.mark(self.connection, marks, now=self.now)

    def _ruled(self, rule: RuleEntry, found: Iterable[Span]) -> int:
        """From the rollups of a rule's inputs. What is out of force, or whose inputs may be gone, stays as it is."""
        kept_since = catalog.dropped_before(self.connection, "rollup", tier_id=self.tier.id)
        if not rule.active:
            return 0
        blocks.place_new_series(self.connection, self.shard_id)
        inputs = rule_inputs.inputs_of(self.connection, rule)
        ids, block_ids, positions = rule_inputs.places_of(self.connection, rule)
        grid = blocks.shard_grid(self.connection, self.shard_id)
        cells = np.searchsorted(grid.block_ids, block_ids) * BLOCK_SERIES + positions
        stage = Ruled(self.connection, self.tier, inputs, Outputs(ids, cells, grid))
        rows = 0
        for span in found:
            kept = tuple(bucket for bucket in span.buckets if kept_since is None or bucket >= kept_since)
            if kept:
                changed = stage.compute(Span(kept, span.until))
                rows += self._store(grid, changed)
                self._mark_above(one.bucket for one in changed)
        return rows

    def _whole(
        self, rule: RuleEntry, parent: TierEntry, targets: Mapping[datetime, frozenset[int] | None]
    ) -> list[datetime]:
        """The buckets of a rule of which all parts are there and made by its present definition.

        Where some of them wait to be computed anew, the bucket is marked to come after them instead: no reader sees old
        and new outputs side by side.
        """
        dropped = catalog.dropped_before(self.connection, "rollup", tier_id=parent.id)
        since = [instant for instant in (dropped, rule.defined_since) if instant is not None]
        buckets = sorted(bucket for bucket in targets if all(bucket >= instant for instant in since))
        if not buckets:
            return []
        finer = {tier.id for tier in self.installation.tiers if tier.ladder.step < self.tier.ladder.step}
        until = self.tier.ladder.end_of(buckets[-1])
        waiting = ledger.due_backfill(
            self.connection, self.shard_id, tier_ids=finer, since=buckets[0], until=until, now=self.now
        )
        late = {self.tier.ladder.start_of(bucket) for bucket in waiting}.intersection(buckets)
        again = [ledger.Mark(self.tier.id, self.shard_id, bucket, self.now, backfill=True) for bucket in sorted(late)]
        ledger.mark(self.connection, again, now=self.now)
        return [bucket for bucket in buckets if bucket not in late]

    def _store(self, grid: Grid, changed: list[Changed]) -> int:
        """Write the rows that changed; gives how many."""
        if not changed:
            return 0
        partitioned = self.tier.partitions
        for start, end in sorted({partitioned.bounds(one.bucket) for one in changed}):
            partitions.ensure(self.connection, partitioned, since=start, until=end)
        if self.backfill:
            written = [one.bucket for one in changed]
            partition_writes.note(
                self.connection, partitioned, written, table_name="rollup", tier_id=self.tier.id, now=self.now
            )
        return write_rollups(self.connection, TierRows(self.tier, grid), changed)

    def _mark_above(self, buckets: Iterable[datetime]) -> None:
        """Mark what the tiers that are built from this one have to merge again."""
        ends = {bucket: self.tier.ladder.end_of(bucket) for bucket in sorted(buckets)}
        # A coarser bucket follows when its part has ended: an open hour is written at each 5m, not at each 1m.
        marks = [
            ledger.Mark(above.id, self.shard_id, bucket, max(self.now, end), None, self.backfill)
            for above in self.installation.built_from(self.tier.id)
            for bucket, end in {above.ladder.start_of(start): end for start, end in ends.items()}.items()
        ]
        ledger.mark(self.connection, marks, now=self.now)


def _targets(cells: npt.NDArray[np.bool_], shape: Shape, target_of: Mapping[int, int]) -> list[int]:
    """The targets to which any of the cells (n,) belong."""
    return sorted({target_of[map_id] for map_id, columns in shape.columns.items() if cells[columns].any()})


def _slices(grid: Grid, span: Span, parent: TierEntry) -> Iterator[Grid]:
    """The grid in parts of which all children of the span can be held at once."""
    children = max(1, round((span.until - span.since) / parent.ladder.step))
    size = max(1, MOST_CELLS // (children * BLOCK_SERIES))
    for start in range(0, len(grid.block_ids), size):
        yield grid.part(start, start + size)
