"""Recomputation: marks windows of the past as backfill, newest first, and helps to roll them up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from aggregator.config.selector import parse_selector
from aggregator.stages.collect.marking import SETTLE
from aggregator.stages.rollup import Rollup
from aggregator.storage import added_tiers, catalog, ledger, recompute, recompute_frames
from aggregator.storage.catalog import Installation, TierEntry
from aggregator.storage.engine import Connection, Database
from aggregator.storage.recompute import Kept, Request, Scope

#: No further window is marked while so many wait: live work finds a short ledger, and Ctrl-C leaves little behind.
MOST_WAITING = 2_000
#: One transaction marks at most so many buckets of a tier, and about so many marks.
WINDOW_BUCKETS = 60
WINDOW_MARKS = 1_000
#: For so long this process rolls up before it looks again at what waits.
BUDGET = timedelta(seconds=2)
#: While other workers hold the shards.
PAUSE_SECONDS = 0.5
_MICROSECOND = timedelta(microseconds=1)
#: Buckets that hold a frame are found by its time rounded down to this, or to the step where that is shorter.
_GRAIN = timedelta(minutes=1)


@dataclass(frozen=True)
class Progress:
    """How far a recomputation is: the part of its interval that is marked (0 to 1), and due marks that wait."""

    request: Request
    waiting: int

    @property
    def fraction(self) -> float:
        """The part of the interval whose buckets are marked."""
        whole = self.request.until - self.request.since
        return (self.request.until - self.request.marked_down_to) / whole if whole else 1.0


@dataclass(frozen=True)
class Done:
    """What a recomputation did.

    `rows_changed`: rollup rows, counted while runs of the stage are kept. `completed`: tiers that were added later and
    have from now on all buckets that could be made.
    """

    request: Request
    rows_changed: int
    completed: tuple[str, ...]


@dataclass
class Recomputation:
    """Does one recomputation from where it stands. It may be stopped anywhere and begun again, or run twice at once."""

    database: Database
    rollup: Rollup
    clock: Callable[[], datetime]
    pause: Callable[[float], None] = field(default=time.sleep)

    def run(self, request: Request, scope: Scope, *, report: Callable[[Progress], None]) -> Done:
        """Mark and roll up until nothing of it is left; `report` is called now and then."""
        installation = self.database.run(catalog.read_installation)
        before = None
        while True:
            waiting = self._waiting(installation, request, scope)
            report(Progress(request, waiting))
            is_marked = request.marked_down_to <= request.since
            if is_marked and not waiting:
                return self._finish(installation, request, scope)
            if not is_marked and waiting < MOST_WAITING:
                request = self.database.run(self._marking(installation, request.id, scope))
            elif waiting == before:  # other workers hold the shards
                self.pause(PAUSE_SECONDS)
            before = waiting
            self.rollup.run(self.clock, budget=BUDGET, only=scope.shard_ids)

    def _waiting(self, installation: Installation, request: Request, scope: Scope) -> int:
        """Due marks in the interval, those of coarse buckets that begin before it included."""
        since = min((tier.ladder.start_of(request.since) for tier in installation.tiers), default=request.since)
        return self.database.run(
            lambda connection: recompute.waiting(
                connection, scope.shard_ids, since=since, until=request.until, now=self.clock()
            )
        )

    def _marking(self, installation: Installation, request_id: int, scope: Scope) -> Callable[[Connection], Request]:
        def work(connection: Connection) -> Request:
            now = self.clock()
            request = recompute.lock_request(connection, request_id)
            if request.marked_down_to <= request.since:
                return request
            window = Window.below(connection, installation, scope, request)
            marked, kept = window.mark(connection, now=now)
            return recompute.move_down(connection, request, to=window.start, marked=marked, kept=kept)

        return work

    def _finish(self, installation: Installation, request: Request, scope: Scope) -> Done:
        now = self.clock()
        subjects = [f"{tier.name}:{shard_id}" for tier in installation.tiers for shard_id in scope.shard_ids]

        def work(connection: Connection) -> Done:
            recompute.finish(connection, request.id, now=now)
            is_whole = added_tiers.is_whole(connection, parse_selector(request.selector))
            completed = added_tiers.complete(connection, installation, request) if is_whole else []
            rows = recompute.rows_changed(connection, subjects, since=request.started_at)
            return Done(request, rows, tuple(completed))

        return self.database.run(work)


@dataclass(frozen=True)
class Window:
    """Some buckets that are marked in one transaction: of each tier those that start in [start, end).

    In the last one, also those that start before the interval and reach into it.
    """

    installation: Installation
    scope: Scope
    start: datetime
    end: datetime
    is_last: bool

    @classmethod
    def below(cls, connection: Connection, installation: Installation, scope: Scope, request: Request) -> Window:
        """The next window below what is marked, as long as what is kept there allows."""
        start = max(_start(connection, installation, scope, request), request.since)
        return cls(installation, scope, start, request.marked_down_to, start <= request.since)

    def mark(self, connection: Connection, *, now: datetime) -> tuple[int, dict[str, Kept]]:
        """Mark what can be rolled up again; gives the buckets (of a shard and tier), and by tier those that cannot."""
        marked = 0
        kept: dict[str, Kept] = {}
        for tier in self.installation.tiers:
            marks = list(self._finest(connection, tier, now=now) if tier.is_finest else self._coarse(connection, tier))
            ledger.mark(connection, (self._backfill(tier, mark, now=now) for mark in marks), now=now)
            again = {(shard_id, bucket) for shard_id, bucket, _ in marks}
            marked += len(again)
            if left := sorted(bucket for _, bucket in self._stored(connection, tier, now=now) - again):
                kept[tier.name] = Kept(len(left), left[0], left[-1])
        return marked, kept

    def _backfill(self, tier: TierEntry, mark: tuple[int, datetime, int | None], *, now: datetime) -> ledger.Mark:
        shard_id, bucket, target_id = mark
        return ledger.Mark(tier.id, shard_id, bucket, now, target_id, backfill=True)

    def _since(self, tier: TierEntry) -> datetime:
        return tier.ladder.start_of(self.start) if self.is_last else self.start

    def _finest(
        self, connection: Connection, tier: TierEntry, *, now: datetime
    ) -> Iterator[tuple[int, datetime, int | None]]:
        """Ended buckets that have frames, and those of rules that have inputs."""
        since, grain = self._since(tier), min(_GRAIN, tier.ladder.step)
        frames = recompute_frames.frame_times(connection, self.scope, grain=grain, since=since, until=self.end)
        found: set[tuple[int, datetime, int | None]] = set()
        for target_id, at in frames:
            shard_id = self.scope.shard_of_target[target_id]
            bucket = tier.ladder.start_of(max(at, since))
            if tier.ladder.end_of(bucket) + SETTLE <= now:
                found.add((shard_id, bucket, None if shard_id in self.scope.whole_shards else target_id))
        yield from found
        inputs = recompute.input_times(connection, self.scope, tier=tier, since=since, until=self.end)
        yield from (
            (shard_id, bucket, None) for shard_id, bucket in inputs if tier.ladder.end_of(bucket) + SETTLE <= now
        )

    def _coarse(self, connection: Connection, tier: TierEntry) -> Iterator[tuple[int, datetime, int | None]]:
        """Buckets of which the tier below has any rollup."""
        since, last = self._since(tier), tier.ladder.start_of(self.end - _MICROSECOND)
        parent = None if tier.parent_id is None else self.installation.tier(tier.parent_id)
        if last < since or parent is None:
            return
        until = tier.ladder.end_of(last)
        children = recompute.rollup_times(connection, self.scope, tier=parent, since=since, until=until)
        for shard_id, bucket in {(shard_id, tier.ladder.start_of(child)) for shard_id, child in children}:
            if bucket >= since:
                yield shard_id, bucket, None

    def _stored(self, connection: Connection, tier: TierEntry, *, now: datetime) -> set[tuple[int, datetime]]:
        since = self._since(tier)
        if tier.ladder.start_of(self.end - _MICROSECOND) < since:
            return set()
        stored = recompute.rollup_times(connection, self.scope, tier=tier, since=since, until=self.end)
        return {(shard_id, bucket) for shard_id, bucket in stored if tier.ladder.end_of(bucket) + SETTLE <= now}


def _start(connection: Connection, installation: Installation, scope: Scope, request: Request) -> datetime:
    """Where a window that ends at `marked_down_to` begins: so many buckets of the finest tier that has inputs there."""
    end, newest = request.marked_down_to, []
    for unit, found in _levels(connection, installation, scope, request):
        if found is None:
            continue
        start = unit.ladder.start_of(end - _buckets(unit, scope) * unit.ladder.step)
        if found >= start:
            return start
        newest.append(unit.ladder.end_of(unit.ladder.start_of(found)))
    # Nothing near: on to the newest that there is, over all that lies between.
    return min(max(newest, default=request.since), end)


def _buckets(unit: TierEntry, scope: Scope) -> int:
    if not unit.is_finest:
        return WINDOW_BUCKETS
    return max(1, min(WINDOW_BUCKETS, WINDOW_MARKS // max(scope.marks_per_bucket, 1)))


def _levels(
    connection: Connection, installation: Installation, scope: Scope, request: Request
) -> Iterable[tuple[TierEntry, datetime | None]]:
    """The kept inputs from the finest on: the tier whose buckets they make, and when the newest unmarked one is."""
    since, until = request.since, request.marked_down_to
    for tier in installation.finest:
        yield tier, recompute_frames.newest_frame(connection, scope, since=since, until=until)
        first = tier.ladder.start_of(since)
        yield tier, recompute.newest_input(connection, scope, tier=tier, since=first, until=until)
    for tier in installation.tiers:
        unit = min(installation.built_from(tier.id), key=lambda above: above.ladder.step, default=tier)
        first = tier.ladder.start_of(since)
        yield unit, recompute.newest_rollup(connection, scope, tier=tier, since=first, until=until)


def find_request(
    requests: Iterable[Request], asked: Callable[[datetime], tuple[datetime, datetime]], *, now: datetime
) -> Request | None:
    """The newest request for the interval that was typed, of those of one selector.

    `asked` gives the interval that the typed times mean at an instant: `-2d` typed again means what it meant when the
    request was made, and a finished one with relative times is another one by now.
    """
    for request in requests:
        interval = request.since, request.until
        if asked(now) == interval or (request.finished_at is None and asked(request.started_at) == interval):
            return request
    return None
