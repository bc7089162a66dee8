"""Whether nothing was lost, doubled or invented: every slot is accounted for, every tier equals plain Python's."""

from __future__ import annotations

import bisect
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from aggregator.embedded.process import wait_until
from aggregator.exposition.series import Kind
from aggregator.rollups.buckets import milliseconds
from aggregator.stages.collect.store import SETTLE
from tests import oracle
from tests.acceptance.machines import PATIENCE, Machine, ask, rows

LOOKBACK_MS = 300_000
#: A shard that misses its slots for so long, while nothing is broken, does not live.
_SILENT = timedelta(seconds=20)
#: Of the slots: so many may be missing, here and there, on a machine that does other work as well; in a short run a
#: second in which the machine did something else is more than that.
STRAY_SHARE = 0.2
_FEW_STRAYS = 20
_RELATIVE = 1e-9

#: Every collection of a shard that has slots of its own; by hand ones have none.
_COLLECTIONS = """
    SELECT o.name, coalesce(n.name, ''), c.shard_id, c.slot, c.finished_at IS NOT NULL AND 0 <> ALL (c.outcome),
        2 = ANY (c.outcome)
    FROM aggregator.collections AS c JOIN aggregator.shards AS h ON h.id = c.shard_id
    JOIN aggregator.sources AS o ON o.id = h.source_id LEFT JOIN aggregator.nodes AS n ON n.id = h.node_id
    WHERE NOT c.by_hand AND NOT h.is_intake
"""
_SLOTS = """
    SELECT s.shard_id, o.name, coalesce(n.name, ''), o.interval_seconds, s.first_slot, s.last_slot, s.slots_missed
    FROM aggregator.shard_slots AS s JOIN aggregator.shards AS h ON h.id = s.shard_id
    JOIN aggregator.sources AS o ON o.id = h.source_id LEFT JOIN aggregator.nodes AS n ON n.id = h.node_id
    ORDER BY 2, 3, 1
"""
#: A wake lives for one interval, and so does the message that it sends; a worker takes a moment to begin.
_CAUGHT_UP = """
    SELECT o.name, c.slot, c.started_at FROM aggregator.collections AS c
    JOIN aggregator.shards AS h ON h.id = c.shard_id JOIN aggregator.sources AS o ON o.id = h.source_id
    WHERE NOT c.by_hand AND c.started_at - c.slot > make_interval(secs => 3 * o.interval_seconds + %s)
"""
_LOST = "SELECT count(*) FROM aggregator.collections WHERE finished_at IS NULL"
#: As if everything had happened ten minutes ago: nobody takes a lost collection over any more.
_TIME_PASSES = "UPDATE aggregator.collections SET lease_until = lease_until - interval '10 minutes' RETURNING 1"
_WITHOUT_REASON = """
    SELECT t.address, c.slot, o.interval_seconds FROM aggregator.targets AS t
    JOIN aggregator.sources AS o ON o.id = t.source_id JOIN aggregator.collections AS c ON t.id = ANY (c.target_ids)
    WHERE t.last_error IS NULL AND c.outcome[array_position(c.target_ids, t.id)] = 2
"""
_DUE = "SELECT count(*) FROM aggregator.dirty WHERE due <= %s"
_SESSIONS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name LIKE 'aggregator%%' AND pid <> pg_backend_pid()
"""
_LOCKS = """
    SELECT count(*) FROM pg_locks
    WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_SAMPLES = "SELECT time, metric, labels::text, value FROM aggregator.samples"
_TIERS = "SELECT name, step_seconds FROM aggregator.tiers WHERE active AND step_months = 0 ORDER BY step_seconds"
_KINDS = "SELECT DISTINCT metric, kind FROM aggregator.series"
_STORED = (
    "SELECT time, metric, labels::text, count, first, last, sum, min, max, increase FROM aggregator.metrics_{tier}"
)
_COLUMNS = ("count", "first", "last", "sum", "min", "max", "increase")
_GAUGE = ("count", "first", "last", "sum", "min", "max")
_COUNTER = ("count", "first", "last", "increase")

Key = tuple[str, str]


@dataclass(frozen=True)
class Outage:
    """When something was broken (UTC): slots may be missing from `began` until `over`."""

    began: datetime
    over: datetime


@dataclass
class LedgerCheck:
    """What was found: faults are what must not be."""

    faults: list[str] = field(default_factory=list)
    shards: int = 0
    slots: int = 0
    collected: int = 0
    failed: int = 0
    missed: int = 0
    #: Slots that are missing while nothing was broken: each is counted as missed, but should not have been.
    strays: list[tuple[str, datetime]] = field(default_factory=list)
    #: Shards that have missed all of their slots for a while, while nothing was broken: their strays follow each other.
    silent: list[tuple[str, datetime, timedelta]] = field(default_factory=list)
    samples: int = 0
    buckets: dict[str, int] = field(default_factory=dict)

    def expect(self, is_so: bool, fault: str) -> None:  # noqa: FBT001 - it reads as assert does
        """Note a fault unless something is so."""
        if not is_so:
            self.faults.append(fault)

    def strayed(self, share: float = STRAY_SHARE) -> list[str]:
        """What is wrong with the slots that are missing outside of any outage; such a share of all may be."""
        found = [f"{name} has stood still for {long} from {since} on" for name, since, long in self.silent]
        if len(self.strays) > max(_FEW_STRAYS, share * self.slots):
            found.append(f"{len(self.strays)} slots are missing while nothing was broken: {self.strays[:50]}")
        return found

    def assert_right(self) -> None:
        """Fail with all that is wrong."""
        faults = [*self.faults, *self.strayed()]
        assert not faults, "\n".join([str(self), *faults[:50]])

    def __str__(self) -> str:
        tiers = ", ".join(f"{count} of {name}" for name, count in self.buckets.items())
        return (
            f"{self.slots} slots of {self.shards} shards = {self.collected} collected ({self.failed} failed) + "
            f"{self.missed} missed, {len(self.strays)} of them outside of an outage; {self.samples} samples; "
            f"equal to brute force: {tiers}; {len(self.faults)} faults"
        )


def check_ledger(machine: Machine, url: str, *, outages: Sequence[Outage] | None = None) -> LedgerCheck:
    """Roll up what is due, give up what is lost, and look at everything. Nothing may be running any more.

    `outages`: when slots may be missing; None: at any time.
    """
    check = LedgerCheck()
    # The server sees a moment later that a client has gone, and may have to roll back first.
    are_gone = wait_until(lambda: ask(url, _SESSIONS) == 0, PATIENCE)
    check.expect(are_gone, "a session of a process that has ended is still there")
    until: datetime = ask(url, "SELECT now()")
    machine.run("aggregator", "rollup")
    rows(url, _TIME_PASSES)
    machine.run("aggregator", "maintain")
    check.expect(ask(url, _DUE, until) == 0, "the ledger still has rows that are due")
    check.expect(ask(url, _LOST) == 0, "a lost collection was not given up")
    check.expect(_failed_without_reason(url, outages or ()) == [], "a target failed without a reason")
    check.expect(ask(url, _LOCKS) == 0, "somebody's lock is left")
    _check_slots(check, url, outages)
    _check_tiers(check, url, until=until)
    return check


def assert_no_slot_was_caught_up(url: str, *, waited_seconds: float = 2.0) -> None:
    """Scrapes that did not happen are gaps: none begins when its slot is long over.

    `waited_seconds`: how long a worker that has its message may wait for the database before it begins.
    """
    found = rows(url, _CAUGHT_UP, waited_seconds)
    assert not found, found


def _failed_without_reason(url: str, outages: Sequence[Outage]) -> list[str]:
    """Targets; the reason is stored after the collection, by a process that may have been killed in between."""
    found = rows(url, _WITHOUT_REASON)
    return [name for name, slot, seconds in found if not _is_excused(slot, timedelta(seconds=seconds), outages)]


def _check_slots(check: LedgerCheck, url: str, outages: Sequence[Outage] | None) -> None:
    """Between a shard's first and last slot each was collected, or is counted as missed."""
    done: dict[int, set[datetime]] = defaultdict(set)
    failed: dict[int, int] = defaultdict(int)
    for _, _, shard_id, slot, is_complete, is_failed in rows(url, _COLLECTIONS):
        if is_complete:
            done[shard_id].add(slot)
            failed[shard_id] += is_failed
    for shard_id, source, node, seconds, first, last, missed in rows(url, _SLOTS):
        name = f"{source}@{node}" if node else source
        interval = timedelta(seconds=seconds)
        due = {first + place * interval for place in range(round((last - first) / interval) + 1)}
        check.expect(done[shard_id] <= due, f"{name}: collected between its slots: {sorted(done[shard_id] - due)[:3]}")
        check.expect(
            len(done[shard_id]) + missed == len(due),
            f"{name}: {len(due)} slots, but {len(done[shard_id])} collected and {missed} missed",
        )
        strays = [slot for slot in sorted(due - done[shard_id]) if not _is_excused(slot, interval, outages)]
        check.strays += [(name, slot) for slot in strays]
        check.silent += [(name, since, long) for since, long in _rows_of(strays, interval) if long > _SILENT]
        check.shards += 1
        check.slots += len(due)
        check.collected += len(done[shard_id])
        check.failed += failed[shard_id]
        check.missed += missed


def _rows_of(slots: Sequence[datetime], interval: timedelta) -> Iterator[tuple[datetime, timedelta]]:
    """Where slots follow each other: since when, and for how long."""
    since = 0
    for place, slot in enumerate(slots, start=1):
        if place == len(slots) or slots[place] - slot > interval:
            yield slots[since], (place - since) * interval
            since = place


def _is_excused(slot: datetime, interval: timedelta, outages: Sequence[Outage] | None) -> bool:
    """Whether something was broken while the slot ran."""
    return outages is None or any(slot <= one.over and slot + interval >= one.began for one in outages)


def _check_tiers(check: LedgerCheck, url: str, *, until: datetime) -> None:
    """Every bucket of every tier whose samples are all kept, computed anew by plain Python."""
    samples = _read_samples(check, url)
    if not samples:
        return
    counters = {metric for metric, kind in rows(url, _KINDS) if kind == Kind.COUNTER}
    whole_from_ms = min(by_time[0][0] for by_time in samples.values())
    until_ms = milliseconds(until - SETTLE)
    for name, step_seconds in rows(url, _TIERS):
        step_ms = round(step_seconds * 1_000)
        stored = {row[:3]: row[3:] for row in rows(url, _STORED.format(tier=name))}
        compared = 0
        for (metric, labels), by_time in samples.items():
            for start in sorted({at // step_ms * step_ms for at, _ in by_time}):
                if start + step_ms > until_ms:
                    continue
                found = stored.pop((datetime.fromtimestamp(start / 1_000, UTC), metric, labels), None)
                bucket = Bucket(f"{name} {metric}{labels}", start, start + step_ms, metric in counters)
                _compare(check, bucket, found, by_time)
                compared += 1
        left = [key for key in stored if whole_from_ms <= milliseconds(key[0]) <= until_ms - step_ms]
        check.expect(not left, f"{name}: {len(left)} rollups without a sample, such as {left[:1]}")
        check.buckets[name] = compared


def _read_samples(check: LedgerCheck, url: str) -> dict[Key, list[tuple[int, float]]]:
    samples: dict[Key, dict[int, float]] = defaultdict(dict)
    for time, metric, labels, value in rows(url, _SAMPLES):
        by_time = samples[metric, labels]
        check.expect(milliseconds(time) not in by_time, f"{metric}{labels}: two samples at {time}")
        by_time[milliseconds(time)] = value
        check.samples += 1
    return {key: sorted(by_time.items()) for key, by_time in samples.items()}


@dataclass(frozen=True)
class Bucket:
    """A bucket of one series, in milliseconds since the epoch."""

    name: str
    start: int
    end: int
    is_counter: bool

    def wanted(self, by_time: Sequence[tuple[int, float]]) -> Mapping[str, float]:
        """What plain Python computes from the series' samples."""
        since = bisect.bisect_left(by_time, (self.start - LOOKBACK_MS,))
        near = by_time[since : bisect.bisect_left(by_time, (self.end,))]
        if self.is_counter:
            return oracle.counter(near, self.start, self.end, lookback_ms=LOOKBACK_MS)
        return oracle.gauge(near, self.start, self.end)


def _compare(
    check: LedgerCheck, bucket: Bucket, found: tuple[Any, ...] | None, by_time: Sequence[tuple[int, float]]
) -> None:
    if found is None:
        check.faults.append(f"{bucket.name}: no rollup at {bucket.start}")
        return
    wanted, by_name = bucket.wanted(by_time), dict(zip(_COLUMNS, found, strict=True))
    for column in _COUNTER if bucket.is_counter else _GAUGE:
        value = by_name[column]
        is_equal = value is not None and math.isclose(value, wanted[column], rel_tol=_RELATIVE, abs_tol=_RELATIVE)
        check.expect(is_equal, f"{bucket.name}: {column} at {bucket.start} is {value}, not {wanted[column]}")
