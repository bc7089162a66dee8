"""Whatever the samples, their order, lateness and repetition: every column of every tier equals the oracle.

One session for each of two collectors and two rollup workers, one step after the other: what fails here shrinks. With
AGGREGATOR_TEST_EFFORT=20 twenty times as many examples are tried. CONTRIBUTING.md says how long that takes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from aggregator.rollups.buckets import from_milliseconds, milliseconds
from aggregator.stages.collect.store import FrameStore
from aggregator.stages.rollup import Rollup
from aggregator.storage import series
from aggregator.storage.bootstrap import bring_up
from aggregator.storage.engine import Database
from tests.arrivals import Script, scripts
from tests.effort import examples
from tests.installation import settings_for
from tests.scene import LEASE, Scene, roll_up_all
from tests.sessions import session

START = datetime(2026, 3, 1, 11, 50, tzinfo=UTC)
#: A run ends with the first transaction that takes longer, and each one does.
ONE_TRANSACTION = timedelta(milliseconds=1)

# A failing script may be long to print. It is printed all the same.
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")


class Workers:
    """Two collectors and two rollup workers, each with what it remembers and a session of its own."""

    def __init__(self, stores: list[FrameStore], rollups: list[Rollup]) -> None:
        self.stores, self.rollups = stores, rollups
        self.numbers = itertools.count()

    @property
    def database(self) -> Database:
        return self.rollups[0].database

    def play(self, script: Script) -> Scene:
        """Let all of a script happen, and roll up what is left."""
        scene = Scene.make(self.database, script, name=f"n{next(self.numbers)}")
        now = START
        for count, arrival in enumerate(script.arrivals):
            now = max(now, from_milliseconds(arrival.at_ms))
            scene.store(arrival, self.stores[arrival.collector], now=now)
            for place, worker, to_the_end in script.roll_ups:
                if place == count:
                    self.rollups[worker].run(lambda now=now: now, budget=LEASE if to_the_end else ONE_TRANSACTION)
        roll_up_all(self.rollups[0], now=now)
        return scene


@pytest.fixture
def workers(database_url: str, tmp_path: Path) -> Iterator[Workers]:
    bring_up(database_url, settings_for(tmp_path), now=START)
    with ExitStack() as stack:
        sessions = [stack.enter_context(session(database_url)) for _ in range(4)]
        yield Workers([FrameStore(one) for one in sessions[:2]], [Rollup(one, "test") for one in sessions[2:]])


@settings(
    max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(script=scripts(start_ms=milliseconds(START), conflicts=True))
def test_every_column_of_every_tier_equals_the_oracle(workers: Workers, script: Script) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(series, "CHURN_ALLOWANCE", script.churn_allowance)
        scene = workers.play(script)
    scene.assert_equals_oracle(workers.database)
