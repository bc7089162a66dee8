"""Killed in the middle: no frame twice, every slot accounted for, every rollup right, and the service goes on."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from aggregator.embedded.postgres import EmbeddedPostgres
from aggregator.embedded.process import wait_until
from aggregator.embedded.wheels import postgres_binaries
from tests.acceptance.ledger_check import check_ledger
from tests.acceptance.machines import BEAT, PATIENCE, Machine, Running, ask, children, kill, machines, wait_for

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
LOST = "SELECT count(*) FROM aggregator.collections WHERE finished_at IS NULL"
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


def assert_right(machine: Machine, url: str) -> None:
    """Stop collecting once there is something to compare; then every slot and every rollup is looked at."""
    wait_for(url, OLD_ENOUGH)
    machine.stop()
    check = check_ledger(machine, url)
    check.assert_right()
    assert sum(check.buckets.values()) >= MOST_TRIVIAL


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
