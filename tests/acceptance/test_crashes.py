"""Killed in the middle: no frame twice, every slot accounted for, every rollup right, and the service goes on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from aggregator.embedded.postgres import EmbeddedPostgres
from aggregator.embedded.process import wait_until
from aggregator.embedded.wheels import postgres_binaries
from aggregator.rollups.buckets import milliseconds
from aggregator.stages.collect.store import SETTLE
from tests import oracle
from tests.acceptance.machines import BEAT, PATIENCE, Machine, Running, ask, children, kill, machines, rows, wait_for

pytestmark = pytest.mark.acceptance

# A short finest tier, so that buckets end while the test runs.
CONFIGURATION = """
lateness = "1s"

[[sources]]
name = "often"
kind = "host"
interval = "1s"
keep = ["node_load1", "node_cpu_seconds_total", "node_time_seconds"]

[[sources]]
name = "slow"
kind = "command"
command = ["sleep", "3"]
interval = "4s"
timeout = "4s"

[[tiers]]
name = "5s"
step = "5s"
retention = "1d"
"""
#: Fewer buckets than this would show nothing.
MOST_TRIVIAL = 10
STEPS = {"metrics_5s": 5, "metrics_1m": 60}
#: For each shard its first and last slot, the slots counted as missed, and those that were collected to the end.
SLOTS = """
    SELECT o.name, o.interval_seconds, s.first_slot, s.last_slot, s.slots_missed,
        count(*) FILTER (WHERE NOT c.by_hand AND c.finished_at IS NOT NULL AND 0 <> ALL (c.outcome))
    FROM aggregator.shard_slots AS s JOIN aggregator.shards AS h ON h.id = s.shard_id
    JOIN aggregator.sources AS o ON o.id = h.source_id
    JOIN aggregator.collections AS c ON c.shard_id = s.shard_id
    GROUP BY 1, 2, 3, 4, 5 ORDER BY 1
"""
LOST = "SELECT count(*) FROM aggregator.collections WHERE finished_at IS NULL"
#: As if everything had happened ten minutes ago: nobody takes a lost collection over any more.
TIME_PASSES = "UPDATE aggregator.collections SET lease_until = lease_until - interval '10 minutes' RETURNING 1"
GOES_ON = "SELECT count(*) >= 3 FROM aggregator.collections WHERE started_at > %s AND finished_at IS NOT NULL"
OPEN_CLAIM = """
    SELECT count(*) > 0 FROM aggregator.collections AS c JOIN aggregator.shards AS s ON s.id = c.shard_id
    JOIN aggregator.sources AS o ON o.id = s.source_id
    WHERE o.name = 'slow' AND c.finished_at IS NULL AND c.started_at > now() - interval '1 second'
"""
OLD_ENOUGH = "SELECT min(at) < now() - interval '12 seconds' FROM aggregator.sample_frame"


@pytest.fixture
def machine(database_url: str, broker_url: str, tmp_path: Path) -> Iterator[Machine]:
    made = make_machine(database_url, broker_url, tmp_path)
    with machines(made):
        yield made


def make_machine(database_url: str, broker_url: str, folder: Path) -> Machine:
    urls = {"AGGREGATOR_DATABASE_URL": database_url, "AGGREGATOR_BROKER_URL": broker_url}
    machine = Machine(folder / "home", "here", urls)
    machine.configure(CONFIGURATION)
    return machine


def begin(machine: Machine) -> Running:
    machine.run("aggregator", "db", "migrate")
    worker = machine.start_worker()
    machine.start(*BEAT)
    return worker


def assert_goes_on(url: str) -> None:
    """Collections begin and end after this."""
    wait_for(url, GOES_ON, datetime.now(UTC))


def end(machine: Machine, url: str) -> datetime:
    """Stop collecting once there is something to compare, and roll up what is due; gives the instant of that."""
    wait_for(url, OLD_ENOUGH)
    machine.stop()
    until = ask(url, "SELECT now()")
    machine.run("aggregator", "rollup")
    assert rows(url, "SELECT count(*) FROM aggregator.dirty WHERE due <= %s", until) == [(0,)]
    return until


def assert_every_slot_is_accounted_for(machine: Machine, url: str) -> None:
    """Between a shard's first and last slot each was collected, or is counted as missed."""
    rows(url, TIME_PASSES)
    machine.run("aggregator", "maintain")
    assert rows(url, LOST) == [(0,)]
    for name, seconds, first, last, missed, collected in rows(url, SLOTS):
        slots = round((last - first).total_seconds() / seconds) + 1
        assert (name, collected + missed) == (name, slots)


def assert_rollups_equal_brute_force(url: str, *, until: datetime) -> None:
    """Every tier, computed anew from the stored samples by plain Python."""
    samples: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    for time, metric, labels, value in rows(url, "SELECT time, metric, labels::text, value FROM aggregator.samples"):
        assert milliseconds(time) not in samples[metric, labels], "a sample is stored twice"
        samples[metric, labels][milliseconds(time)] = value
    compared = 0
    until_ms = milliseconds(until - SETTLE)
    for view, step in STEPS.items():
        stored = {row[:3]: row[3:] for row in rows(url, _STORED.format(view=view))}
        for (metric, labels), by_time in samples.items():
            starts = {at // (step * 1_000) * step * 1_000 for at in by_time}
            for start in (start for start in starts if start + step * 1_000 <= until_ms):
                at = datetime.fromtimestamp(start / 1_000, UTC)
                found = stored[at, metric, labels]
                assert_equal(found, by_time, start, start + step * 1_000, is_counter=metric.endswith("_total"))
                compared += 1
    assert compared >= MOST_TRIVIAL


_STORED = "SELECT time, metric, labels::text, count, first, last, sum, min, max, increase FROM aggregator.{view}"


def assert_equal(found: tuple[Any, ...], samples: dict[int, float], start: int, end: int, *, is_counter: bool) -> None:
    if is_counter:
        wanted = oracle.counter(samples.items(), start, end, lookback_ms=300_000)
        names: tuple[str, ...] = ("count", "first", "last", "increase")
    else:
        wanted = oracle.gauge(samples.items(), start, end)
        names = ("count", "first", "last", "sum", "min", "max")
    by_name = dict(zip(("count", "first", "last", "sum", "min", "max", "increase"), found, strict=True))
    for name in names:
        assert by_name[name] == pytest.approx(wanted[name], rel=1e-9, abs=1e-9), (name, start)


def assert_right(machine: Machine, url: str) -> None:
    until = end(machine, url)
    assert_rollups_equal_brute_force(url, until=until)
    assert_every_slot_is_accounted_for(machine, url)


def test_a_child_that_is_killed_in_the_middle_of_a_collection(machine: Machine, database_url: str) -> None:
    worker = begin(machine)
    for _ in range(2):
        wait_for(database_url, OPEN_CLAIM)
        before = children(worker.process)
        assert len(before) == 2
        for child in before:
            kill(child)
        assert wait_until(lambda before=before: len(set(children(worker.process)) - set(before)) == 2, PATIENCE)
        assert_goes_on(database_url)
    assert ask(database_url, LOST) > 0  # it was in the middle of something
    assert_right(machine, database_url)


def test_a_worker_that_is_killed_with_all_its_children_and_started_again(machine: Machine, database_url: str) -> None:
    worker = begin(machine)
    wait_for(database_url, OPEN_CLAIM)
    worker.kill()
    assert_nothing_is_left_of(worker)
    machine.start_worker()
    assert_goes_on(database_url)
    assert_right(machine, database_url)


def assert_nothing_is_left_of(worker: Running) -> None:
    assert worker.process.poll() is not None
    session = worker.process.pid

    def left() -> list[str]:
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(path.parent.name)
        return found

    assert wait_until(lambda: not left(), PATIENCE), left()


def test_postgresql_goes_away_and_comes_back_while_work_goes_on(
    open_directory: Path, broker_url: str, tmp_path: Path
) -> None:
    home = open_directory / "restarted"
    with EmbeddedPostgres(home, binaries=postgres_binaries(), port=None, fsync=False) as server:
        machine = make_machine(server.url, broker_url, tmp_path)
        with machines(machine):
            worker = begin(machine)
            assert_goes_on(server.url)
            for pause in (timedelta(0), timedelta(seconds=4)):
                server.stop()
                # Until somebody has noticed, if it is away for long enough.
                seen = worker.log.read_text().count("cannot be reached")
                if pause:
                    wait_until(lambda seen=seen: worker.log.read_text().count("cannot be reached") > seen, pause)
                server.start()
                assert_goes_on(server.url)
            assert worker.process.poll() is None
            assert_right(machine, server.url)
