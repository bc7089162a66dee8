"""The report of a load: one table, what was wanted beside what was measured."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import pairwise

from figures import Connection, samples_between, slots, stored
from observations import Moment, Watched
from process_costs import OUTSIDE, Cost
from rich.console import Console
from rich.table import Table

from aggregator.rollups.buckets import floor_to

MOST_ROWS_PER_BUCKET = 1.2
_LEAST_FOR_THIRDS = 3
_MEGABYTE = 1_000_000

Line = tuple[str, str]
#: Seconds of the monotonic clock, and the costs then.
Look = tuple[float, dict[str, Cost]]


def report(connection: Connection, started: Moment, ended: Moment, watched: Watched, *, interval: timedelta) -> None:
    """Print it."""
    span = (started.counters.at, ended.counters.at)
    lines = [
        *_machine(started, ended),
        *_slots(connection, span, interval, ended.counters.slots_missed - started.counters.slots_missed),
        *_lag(watched),
        *_processor(started, ended, watched),
        *_memory(ended, watched),
        *_rollups(started, ended),
        *_bytes(connection, span, ended.counters.wal_bytes - started.counters.wal_bytes),
    ]
    table = Table("figure", "value", title="load")
    for line in lines:
        table.add_row(*line)
    Console(width=110).print(table)


def _machine(started: Moment, ended: Moment) -> Iterator[Line]:
    yield "measured for", f"{ended.monotonic_seconds - started.monotonic_seconds:.0f} s on {os.cpu_count()} cores"
    yield "load average of the machine", " ".join(f"{load:.2f}" for load in os.getloadavg())


def _slots(connection: Connection, span: tuple[datetime, datetime], interval: timedelta, missed: int) -> Iterator[Line]:
    # From the first whole slot to the last one that can have ended.
    since, until = floor_to(span[0], interval) + interval, floor_to(span[1], interval) - interval
    found = slots(connection, since=since, until=until, interval=interval)
    yield "slots due", str(found.due)
    yield "slots collected, every target up", str(found.collected)
    yield "slots not begun, not all up", f"{found.due - found.begun}, {found.begun - found.collected}"
    yield "slots missed by the ledger's own count", str(missed)
    yield (
        "longest collection; latest start after it was due",
        f"{_seconds(found.longest)}; {_seconds(found.latest_start)}",
    )


def _lag(watched: Watched) -> Iterator[Line]:
    lag = watched.lag_by_second
    thirds = ", ".join(f"{max(lag[begin:end]):.1f} s" for begin, end in _thirds(len(lag)))
    yield "lag of rollups: most; in each third", f"{max(lag):.1f} s; {thirds}"
    delays = sorted(watched.bucket_delays)
    if delays:
        yield (
            "1m bucket there after its end: median; most",
            f"{_seconds(delays[len(delays) // 2])}; {_seconds(delays[-1])}",
        )


def _processor(started: Moment, ended: Moment, watched: Watched) -> Iterator[Line]:
    first, last = (started.monotonic_seconds, started.costs), (ended.monotonic_seconds, ended.costs)
    looks = [first, *watched.costs_by_minute[1:], last]
    ours = 0.0
    for part in ended.costs:
        share = _share(part, first, last)
        ours += share if part not in OUTSIDE else 0
        thirds = ", ".join(f"{_share(part, looks[begin], looks[end]):.1%}" for begin, end in _thirds(len(looks) - 1))
        yield f"CPU of one core; in each third: {part}", f"{share:.1%}; {thirds}"
    yield "CPU of one core: the installation", f"{ours:.1%}"


def _share(part: str, before: Look, after: Look) -> float:
    used = after[1].get(part, Cost()).cpu_seconds - before[1].get(part, Cost()).cpu_seconds
    return used / (after[0] - before[0])


def _thirds(length: int) -> list[tuple[int, int]]:
    """Where the thirds of a list begin and end; of a short one, the whole of it."""
    marks = [length * part // 3 for part in range(4)] if length >= _LEAST_FOR_THIRDS else [0, length]
    return list(pairwise(marks))


def _memory(ended: Moment, watched: Watched) -> Iterator[Line]:
    ours = 0
    for part, cost in ended.costs.items():
        peak = max(cost.pss_bytes, watched.peak_pss.get(part, 0))
        ours += cost.pss_bytes if part not in OUTSIDE else 0
        yield f"PSS at the end; most: {part} ({cost.processes})", f"{_megabytes(cost.pss_bytes)}; {_megabytes(peak)}"
    yield "PSS at the end: the installation", _megabytes(ours)


def _rollups(started: Moment, ended: Moment) -> Iterator[Line]:
    written = ended.counters.finest_rows_written - started.counters.finest_rows_written
    there = ended.counters.finest_rows - started.counters.finest_rows
    yield "1m rows written; 1m buckets x blocks", f"{written}; {there}"
    if there:
        yield f"rows written per bucket and block (at most {MOST_ROWS_PER_BUCKET})", f"{written / there:.3f}"


def _bytes(connection: Connection, span: tuple[datetime, datetime], wal_bytes: int) -> Iterator[Line]:
    samples = samples_between(connection, *span)
    passed = (span[1] - span[0]).total_seconds()
    yield "samples stored; per second", f"{samples}; {samples / passed:.0f}"
    yield "WAL bytes per sample, rollups and all", f"{wal_bytes / max(samples, 1):.1f}"
    for table in stored(connection):
        yield (
            f"bytes in {table.name}",
            f"{table.total_bytes / table.things:.1f} each of {table.things} in {table.rows} rows",
        )


def _seconds(duration: timedelta) -> str:
    return f"{duration.total_seconds():.1f} s"


def _megabytes(size: float) -> str:
    return f"{size / _MEGABYTE:.0f} MB"
