"""All workers are down for an hour: the hour is counted as missed and said so, and nothing of it is caught up."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from aggregator.storage import partitions
from aggregator.storage.partitions import COLLECTIONS
from tests.acceptance.faults.fault import RESTART, patience
from tests.acceptance.faults.scene import Cast, Scene, scene
from tests.acceptance.ledger_check import Outage
from tests.acceptance.machines import PATIENCE, fetched, rows
from tests.sessions import session

pytestmark = pytest.mark.acceptance

HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
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
    found: dict[str, float] = {}
    for line in fetched(url).splitlines():
        if line.startswith("aggregator_slots_missed_total{"):
            labels, _, value = line.removeprefix("aggregator_slots_missed_total{").partition("} ")
            pairs = dict(pair.split("=") for pair in labels.split(","))
            found[f"{pairs['stage']}/{pairs['source']}".replace('"', "")] = float(value.split()[0])
    return found


def make_partitions(url: str, *, since: datetime, until: datetime) -> None:
    """An hour ago may have been yesterday, for which nobody has made any."""
    with session(url) as database:
        database.run(lambda connection: partitions.ensure(connection, COLLECTIONS, since=since, until=until))


def is_said(said: dict[str, float], wanted: dict[str, float]) -> bool:
    """Whether as many slots are said to be missed as must be, or more."""
    return all(said.get(name, 0) >= fewest for name, fewest in wanted.items())


def test_after_an_hour_without_workers_the_present_is_collected_and_the_hour_is_missed(here: Scene) -> None:
    stopped = datetime.now(UTC)
    for worker in here.workers:
        worker.stop()
    before = {str(name): (last, missed) for name, last, missed in rows(here.database_url, _SLOTS)}
    make_partitions(here.database_url, since=stopped - 2 * HOUR, until=stopped)
    rows(here.database_url, _AN_HOUR_PASSES)
    here.live(BACKLOG)
    started = datetime.now(UTC)
    for worker in here.workers:
        worker.start()
    assert here.wait(lambda: set(here.collected_since(started)) >= set(INTERVALS), patience(2 * RESTART))
    # What is known happened an hour earlier now; from then on nobody was there.
    here.outages.append(Outage(stopped - HOUR, datetime.now(UTC)))

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

    wanted = {"collect/often": HOUR / SECOND, "collect/self": HOUR / SECOND / 2, "rollup/": HOUR / SECOND / 5 - 1}
    # Roll-ups have a turn of their own, and `web` may not have been able to ask the database yet.
    assert here.wait(lambda: is_said(missed_by_metrics(here), wanted), PATIENCE), missed_by_metrics(here)
    # The hour's wakes that were sent are read and thrown away.
    with here.redis.client() as client:
        assert here.wait(lambda: sum(client.llen(key) for key in queues(here)) < 20, patience(RESTART))
    # The samples were left where they are, and are right.
    here.check().assert_right()


def queues(here: Scene) -> list[str]:
    """The broker's lists."""
    with here.redis.client() as client:
        return [key for key in client.scan_iter() if client.type(key) == "list"]
