"""The report of a load: one table, what was wanted beside what was measured."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime, timedelta

from figures import Connection, samples_between, slots, stored
from observations import Moment, Watched
from process_costs import OUTSIDE, Cost
from rich.console import Console
from rich.table import Table

from aggregator.rollups.buckets import floor_to

MOST_ROWS_PER_BUCKET = 1.2
_MEGABYTE = 1_000_000

Line = tuple[str, str]


def report(connection: Connection, started: Moment, ended: Moment, watched: Watched, *, interval: timedelta) -> None:
    """Print it."""
    span = (started.counters.at, ended.counters.at)
    lines = [
        *_machine(started, ended),
        *_slots(connection, span, interval, ended.counters.slots_missed - started.counters.slots_missed),
        *_lag(watched),
        *_processor(started, ended),
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
    third = max(len(lag) // 3, 1)
    yield (
        "lag of rollups: most; in the first, last third",
        f"{max(lag):.1f} s; {max(lag[:third]):.1f} s, {max(lag[-third:]):.1f} s",
    )
    delays = sorted(watched.bucket_delays)
    if delays:
        yield (
            "1m bucket there after its end: median; most",
            f"{_seconds(delays[len(delays) // 2])}; {_seconds(delays[-1])}",
        )


def _processor(started: Moment, ended: Moment) -> Iterator[Line]:
    passed = ended.monotonic_seconds - started.monotonic_seconds
    ours = 0.0
    for part, cost in ended.costs.items():
        share = (cost.cpu_seconds - started.costs.get(part, Cost()).cpu_seconds) / passed
        ours += share if part not in OUTSIDE else 0
        yield f"CPU of one core: {part}", f"{share:.1%}"
    yield "CPU of one core: the installation", f"{ours:.1%}"


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
