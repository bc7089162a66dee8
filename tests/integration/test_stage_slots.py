"""A job that still runs does not run beside itself, and one whose lease has ended is taken over."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from aggregator.collectors import make_collectors
from aggregator.config.source_model import PrometheusSource
from aggregator.exposition.series import Kind
from aggregator.stages.collect import Collect
from aggregator.stages.maintain import LEASE as MAINTAIN_LEASE
from aggregator.stages.maintain import Maintain
from aggregator.stages.verify import LEASE as VERIFY_LEASE
from aggregator.stages.verify import Verify
from aggregator.storage import registry, runs
from aggregator.storage.engine import Connection
from tests.installation import Installation, series_key
from tests.slots import claim_slot, collect_slot

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
INTERVAL = timedelta(seconds=15)
#: Nothing listens there: a collection ends at once, with a reason.
SOURCE = PrometheusSource(name="scripted", targets=("http://127.0.0.1:1/metrics",), interval=INTERVAL)
SOON = timedelta(minutes=1)


@pytest.fixture
def collect(installation: Installation, tmp_path: Path) -> Collect:
    return Collect(installation.database, "test", make_collectors(tmp_path))


def intake_of(installation: Installation) -> int:
    return installation.database.run(partial(registry.ensure_intake, source_id=installation.source_id))


def at(instant: datetime) -> Callable[[], datetime]:
    return lambda: instant


def test_an_intake_is_not_collected_while_an_earlier_slot_of_it_still_is(
    installation: Installation, collect: Collect
) -> None:
    (target,) = installation.targets(1)
    claim_slot(installation, target, START, now=START, node="elsewhere", lease=SOON)
    run = partial(collect.run, installation.source_id, SOURCE, intake_of(installation))
    for slot in (START, START + INTERVAL, START + 2 * INTERVAL):
        assert run(slot=slot, clock=at(slot)) is None
    after = START + SOON + timedelta(seconds=1)
    reports = run(slot=START + 5 * INTERVAL, clock=at(after))
    assert reports is not None
    assert [report.up for report in reports] == [False]


def test_a_shard_of_its_own_is_collected_whatever_became_of_the_slot_before(
    installation: Installation, collect: Collect
) -> None:
    (target,) = installation.targets(1)
    collect_slot(installation, target, START, {series_key("g", 0, Kind.GAUGE): 1.0})
    claim_slot(installation, target, START + INTERVAL, now=START + INTERVAL, node="gone", lease=SOON)
    shard_id = installation.database.run(partial(_shard_of_scripted, source_id=installation.source_id))
    slot = START + 2 * INTERVAL
    assert collect.run(installation.source_id, SOURCE, shard_id, slot=slot, clock=at(slot)) is not None


def _shard_of_scripted(connection: Connection, *, source_id: int) -> int:
    shards = registry.collectable_shards(connection, source_id, seen_since=START)
    return next(shard.id for shard in shards if not shard.is_intake)


Run = Callable[[Installation, datetime, datetime], object]


def maintain(installation: Installation, slot: datetime, now: datetime) -> object:
    return Maintain(installation.database, "here").run(clock=at(now), slot=slot)


def verify(installation: Installation, slot: datetime, now: datetime) -> object:
    return Verify(installation.database, "here").run(clock=at(now), slot=slot, budget=SOON)


@pytest.mark.parametrize(
    ("stage", "run", "lease"), [("maintain", maintain, MAINTAIN_LEASE), ("verify", verify, VERIFY_LEASE)]
)
def test_a_stage_with_slots_runs_once_at_a_time_and_what_is_lost_is_taken_over(
    installation: Installation, stage: str, run: Run, lease: timedelta
) -> None:
    claimed = installation.database.run(
        partial(runs.claim_slot, stage=stage, subject="", slot=START, node="elsewhere", now=START, lease=lease)
    )
    assert claimed is not None
    assert run(installation, START, START + lease / 2) is None
    assert run(installation, START, START + lease + timedelta(seconds=1)) is not None
    assert run(installation, START, START + 3 * lease) is None  # it is done
