"""Whatever the samples, their order, lateness, repetition and sealing: every column of every tier equals the oracle.

One session for each of two collectors and two rollup workers, one step after the other: what fails here shrinks. In the
suite 30 scripts and 15 with lost COMMITs are tried, in about 20 s. With AGGREGATOR_TEST_EFFORT=12 it was 360 and 180,
in 271 s and 140 s.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aggregator.rollups.buckets import from_milliseconds, milliseconds
from aggregator.stages.collect.store import FrameStore
from aggregator.stages.rollup import Rollup
from aggregator.storage import engine, series
from aggregator.storage.bootstrap import bring_up
from aggregator.storage.engine import Database
from tests.arrivals import Script, scripts
from tests.effort import examples
from tests.installation import settings_for
from tests.lives import insist
from tests.losing_proxy import LosingProxy, Loss, losing_proxy
from tests.scene import LEASE, Scene, roll_up_all
from tests.sealed import seal_everything
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

    def scene(self, script: Script) -> Scene:
        """A script on sources of its own."""
        return Scene.make(self.database, script, name=f"n{next(self.numbers)}")

    def play(self, scene: Scene) -> None:
        """Let all of a script happen, again where the connection was lost too often, and roll up what is left."""
        script, now = scene.script, START
        for count, arrival in enumerate(script.arrivals):
            now = max(now, from_milliseconds(arrival.at_ms))
            insist(partial(scene.store, arrival, self.stores[arrival.collector], now=now))
            for place, worker, to_the_end in script.roll_ups:
                if place == count:
                    budget = LEASE if to_the_end else ONE_TRANSACTION
                    insist(partial(self.rollups[worker].run, lambda now=now: now, budget=budget))
            if count in script.seals:
                insist(partial(seal_everything, self.database, scene.source_ids, now=now))
        insist(partial(roll_up_all, self.rollups[0], now=now))


@contextmanager
def working(url: str) -> Iterator[Workers]:
    """Workers whose sessions go to this URL."""
    with ExitStack() as stack:
        sessions = [stack.enter_context(session(url)) for _ in range(4)]
        yield Workers([FrameStore(one) for one in sessions[:2]], [Rollup(one, "test") for one in sessions[2:]])


@pytest.fixture
def published_url(database_url: str, tmp_path: Path) -> str:
    bring_up(database_url, settings_for(tmp_path), now=START)
    return database_url


@pytest.fixture
def workers(published_url: str) -> Iterator[Workers]:
    with working(published_url) as made:
        yield made


@pytest.fixture
def losing(published_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[LosingProxy]:
    monkeypatch.setattr(engine, "FIRST_PAUSE_SECONDS", 0.001)
    with losing_proxy(published_url) as proxy:
        yield proxy


@pytest.fixture
def losing_workers(losing: LosingProxy) -> Iterator[Workers]:
    with working(losing.url) as made:
        yield made


def profile(most_examples: int) -> settings:
    return settings(
        max_examples=examples(most_examples),
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@profile(30)
@given(script=scripts(start_ms=milliseconds(START), conflicts=True))
def test_every_column_of_every_tier_equals_the_oracle(workers: Workers, script: Script) -> None:
    scene = workers.scene(script)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(series, "CHURN_ALLOWANCE", script.churn_allowance)
        workers.play(scene)
    scene.assert_equals_oracle(workers.database)


@profile(15)
@given(
    script=scripts(start_ms=milliseconds(START)),
    losses=st.dictionaries(st.integers(0, 60), st.sampled_from(Loss), max_size=12),
)
def test_numbers_are_right_whatever_becomes_of_a_commit(
    losing: LosingProxy, losing_workers: Workers, script: Script, losses: dict[int, Loss]
) -> None:
    scene = losing_workers.scene(script)
    losing.expect(losses)
    losing_workers.play(scene)
    losing.expect({})
    scene.assert_equals_oracle(losing_workers.database)
