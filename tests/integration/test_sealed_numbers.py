"""From sealed samples only, every column of every tier equals the oracle, and `verify` finds nothing wrong."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from sqlalchemy import text

from aggregator.rollups.buckets import from_milliseconds, milliseconds
from aggregator.stages.collect.store import FrameStore
from aggregator.stages.rollup import Rollup
from aggregator.stages.verify import Range, Verify
from aggregator.storage import series
from aggregator.storage.bootstrap import bring_up
from aggregator.storage.engine import Database
from tests.arrivals import Script, scripts
from tests.effort import examples
from tests.installation import settings_for
from tests.scene import LATER, LEASE, Scene, roll_up_all
from tests.sealed import seal_samples
from tests.sessions import session

START = datetime(2026, 3, 1, 11, 50, tzinfo=UTC)
#: What scripts have samples in.
DAY = timedelta(days=1)
NUMBERS = itertools.count()

# A failing script may be long to print. It is printed all the same.
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")


@pytest.fixture
def database(database_url: str, tmp_path: Path) -> Iterator[Database]:
    bring_up(database_url, settings_for(tmp_path), now=START)
    with session(database_url) as made:
        yield made


@settings(
    max_examples=examples(3),
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(script=scripts(start_ms=milliseconds(START), conflicts=True))
def test_rollups_of_sealed_samples_equal_the_oracle(database: Database, script: Script) -> None:
    scene = Scene.make(database, script, name=f"s{next(NUMBERS)}")
    store, rollup = FrameStore(database), Rollup(database, "test")
    now = START
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(series, "CHURN_ALLOWANCE", script.churn_allowance)
        for count, arrival in enumerate(script.arrivals):
            now = max(now, from_milliseconds(arrival.at_ms))
            scene.store(arrival, store, now=now)
            if any(place == count for place, _, _ in script.roll_ups):
                rollup.run(lambda now=now: now, budget=LEASE)
            if count in script.seals:
                seal_samples(database, scene.source_ids, now=now)
        seal_samples(database, scene.source_ids, now=now)
        roll_up_all(rollup, now=now)
    scene.assert_equals_oracle(database)
    with database.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM aggregator.sample_frame")).scalar_one() == 0
    report = Verify(database, "test").look(Range(START - DAY, now + DAY), clock=lambda: now + LATER)
    assert report.mismatches == ()
    assert report.rollups > 0
