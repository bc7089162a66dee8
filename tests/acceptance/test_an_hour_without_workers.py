"""All workers are down for an hour: the hour is counted as missed and said so, and nothing of it is caught up."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.acceptance.faults.fault import RESTART, patience
from tests.acceptance.faults.scene import Cast, Scene, scene
from tests.acceptance.machines import rows

pytestmark = pytest.mark.acceptance

HOUR = timedelta(hours=1)
#: Messages pile up for so long.
BACKLOG = timedelta(seconds=4)
INTERVALS = {"often@a": 1.0, "slow@a": 4.0, "scraped@": 2.0, "self@": 2.0}
#: As if all that is known had happened an hour earlier; the samples stay.
_AN_HOUR_PASSES = """
    UPDATE aggregator.shard_slots
        SET first_slot = first_slot - interval '1 hour', last_slot = last_slot - interval '1 hour';
    UPDATE aggregator.wakes SET slot = slot - interval '1 hour', woken_at = woken_at - interval '1 hour';
    UPDATE aggregator.nodes SET last_seen = last_seen - interval '1 hour';
    UPDATE aggregator.collections SET slot = slot - interval '1 hour', started_at = started_at - interval '1 hour',
        finished_at = finished_at - interval '1 hour', lease_until = lease_until - interval '1 hour';
    SELECT 1
"""
_SLOTS = """
    SELECT o.name || '@' || coalesce(n.name, ''), s.last_slot, s.slots_missed FROM aggregator.shard_slots AS s
    JOIN aggregator.shards AS h ON h.id = s.shard_id JOIN aggregator.sources AS o ON o.id = h.source_id
    LEFT JOIN aggregator.nodes AS n ON n.id = h.node_id
"""
_STARTED = """
    SELECT o.name || '@' || coalesce(n.name, ''), c.slot, c.started_at FROM aggregator.collections AS c
    JOIN aggregator.shards AS h ON h.id = c.shard_id JOIN aggregator.sources AS o ON o.id = h.source_id
    LEFT JOIN aggregator.nodes AS n ON n.id = h.node_id WHERE c.started_at >= %s AND NOT h.is_intake
"""


@pytest.fixture
def here(open_directory: Path, tmp_path: Path) -> Iterator[Scene]:
    cast = Cast(beats=2, web=True)
    with scene(tmp_path / "machines", open_directory / tmp_path.name, cast=cast) as made:
        yield made


def missed_by_metrics(here: Scene) -> dict[str, float]:
    """What `/metrics` of the installation says of each stage and source: `stage/source`."""
    url = f"http://{here.machines[0].environment['AGGREGATOR_WEB_LISTEN']}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    found = {}
    for line in lines:
        if line.startswith("aggregator_slots_missed_total{"):
            labels, _, value = line.removeprefix("aggregator_slots_missed_total{").partition("} ")
            pairs = dict(pair.split("=") for pair in labels.split(","))
            found[f"{pairs['stage']}/{pairs['source']}".replace('"', "")] = float(value.split()[0])
    return found


def test_after_an_hour_without_workers_the_present_is_collected_and_the_hour_is_missed(here: Scene) -> None:
    for worker in here.workers:
        worker.stop()
    before = {str(name): (last, missed) for name, last, missed in rows(here.database_url, _SLOTS)}
    rows(here.database_url, _AN_HOUR_PASSES)
    here.live(BACKLOG)
    started = datetime.now(UTC)
    for worker in here.workers:
        worker.start()
    assert here.wait(lambda: set(here.collected_since(started)) >= set(INTERVALS), patience(2 * RESTART))
    ended = datetime.now(UTC)

    for name, slot, at in rows(here.database_url, _STARTED, started):
        # Nothing is invented: a wake lives for one interval, and so does the message that it sends.
        assert started - timedelta(seconds=3 * INTERVALS[name]) < slot <= at, (name, slot, at)
    for name, last, missed in rows(here.database_url, _SLOTS):
        interval = timedelta(seconds=INTERVALS[name])
        passed = round((last - before[name][0] + HOUR) / interval)
        # What was collected since is the few slots that are left; a burst would be more than the time has slots.
        assert HOUR / interval <= missed - before[name][1] < passed, (name, passed, missed)
        collected = sum(one == name for one, _, _ in rows(here.database_url, _STARTED, started))
        assert collected <= (datetime.now(UTC) - started) / interval + 3, (name, collected)

    said = missed_by_metrics(here)
    assert said["collect/often"] >= HOUR.total_seconds()
    assert said["collect/self"] >= HOUR.total_seconds() / 2
    assert said["rollup/"] >= HOUR.total_seconds() / 5 - 1
    # The hour's wakes that were sent are read and thrown away.
    with here.redis.client() as client:
        assert here.wait(lambda: sum(client.llen(key) for key in queues(here)) < 20, RESTART)
    assert ended - started < patience(2 * RESTART)
    # The samples were left where they are, and are right.
    here.check().assert_right(strays=10_000)


def queues(here: Scene) -> list[str]:
    """The broker's lists."""
    with here.redis.client() as client:
        return [key for key in client.scan_iter() if client.type(key) == "list"]
