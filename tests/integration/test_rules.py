"""Whatever the samples and their arrival, and whenever a rule comes or changes: each output is what its inputs give.

The inputs themselves are beside their own oracle in test_numbers.py. In the suite 8 scripts are tried, in about 30 s.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aggregator.config.model import Rule, Settings
from aggregator.rollups.buckets import from_milliseconds, milliseconds
from aggregator.stages.collect.store import FrameStore
from aggregator.stages.rollup import Rollup
from aggregator.storage import series
from aggregator.storage.bootstrap import bring_up
from aggregator.storage.engine import Database
from tests.arrivals import Script, scripts
from tests.effort import examples
from tests.installation import settings_for
from tests.ruled import RuledScene, publish_rules
from tests.scene import LEASE, marks_left, roll_up_all
from tests.sessions import session

START = datetime(2026, 3, 1, 11, 50, tzinfo=UTC)
ONE_TRANSACTION = timedelta(milliseconds=1)
NUMBERS = itertools.count()

pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")


@pytest.fixture
def plain(tmp_path: Path) -> Settings:
    """Settings without rules."""
    return settings_for(tmp_path)


@pytest.fixture
def sessions(database_url: str, plain: Settings) -> Iterator[list[Database]]:
    """Of two collectors and two rollup workers."""
    bring_up(database_url, plain, now=START)
    with ExitStack() as stack:
        yield [stack.enter_context(session(database_url)) for _ in range(4)]


class Play:
    """A script that happens while rules come and change, between arrivals."""

    def __init__(self, sessions: list[Database], plain: Settings, scene: RuledScene) -> None:
        self.stores, self.rollups = (
            [FrameStore(one) for one in sessions[:2]],
            [Rollup(one, "test") for one in sessions[2:]],
        )
        self.database, self.plain, self.scene = sessions[2], plain, scene
        self.now = START

    def publish(self, rules: Iterable[Rule]) -> None:
        self.database.run(lambda found: publish_rules(found, self.plain, rules, now=self.now))

    def run(self, *, comes: int, other: int | None) -> None:
        """`comes`: before which arrival the rules do; `other`: before which earlier one others of their names did."""
        script = self.scene.script
        for count, arrival in enumerate(script.arrivals):
            if count == other and count < comes:
                self.publish(self.scene.other_rules())
            if count == comes:
                self.publish(self.scene.rules())
            self.now = max(self.now, from_milliseconds(arrival.at_ms))
            self.scene.store(arrival, self.stores[arrival.collector], now=self.now)
            for place, worker, to_the_end in script.roll_ups:
                if place == count:
                    budget = LEASE if to_the_end else ONE_TRANSACTION
                    self.rollups[worker].run(lambda: self.now, budget=budget)
        if comes >= len(script.arrivals):
            roll_up_all(self.rollups[1], now=self.now)
            self.publish(self.scene.rules())
        roll_up_all(self.rollups[0], now=self.now)


@settings(
    max_examples=examples(8),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    script=scripts(start_ms=milliseconds(START), conflicts=True),
    comes=st.sampled_from([0, 0, 3, 10, 1_000]),
    other=st.sampled_from([None, None, 0, 2]),
)
def test_every_tier_of_every_output_is_what_its_inputs_give(
    sessions: list[Database], plain: Settings, script: Script, comes: int, other: int | None
) -> None:
    scene = RuledScene.make(sessions[2], script, name=f"r{next(NUMBERS)}")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(series, "CHURN_ALLOWANCE", script.churn_allowance)
        play = Play(sessions, plain, scene)
        play.run(comes=comes, other=other)
    scene.assert_outputs_are_right(sessions[2], scene.rules())
    assert marks_left(sessions[2]) == 0
