"""Whatever is killed, and whenever: in the end every column of every tier equals the oracle, of outputs of rules too.

Two collectors, two rollup workers and one that seals at once, as processes that die by SIGKILL at a given step or at
any moment, and whose sessions are terminated by the server in the middle. Nothing here shrinks: the order of events is
the machine's.
In the suite 12 examples are tried, in about 12 s; with AGGREGATOR_TEST_EFFORT=12 it was 144, in 250 s, with 5 lives
lost in each on average.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from aggregator.rollups.buckets import from_milliseconds, milliseconds
from aggregator.stages.rollup import Rollup
from aggregator.storage.bootstrap import bring_up
from aggregator.storage.engine import Database
from tests.arrivals import Script, scripts
from tests.effort import examples
from tests.installation import settings_for
from tests.lives import APPLICATION, Job, Worker, collect, roll_up, seal
from tests.ruled import RuledScene, publish_rules
from tests.scene import roll_up_all
from tests.sessions import session

START = datetime(2026, 3, 1, 11, 50, tzinfo=UTC)
PATIENCE_SECONDS = 180.0
POLL_SECONDS = 0.005
NUMBERS = itertools.count()

_TERMINATE = text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE application_name = :application AND datname = current_database() ORDER BY random() LIMIT 1"
)

pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")


@pytest.fixture
def watch(database_url: str, tmp_path: Path) -> Iterator[Database]:
    """A session beside those that suffer."""
    bring_up(database_url, settings_for(tmp_path), now=START)
    with session(database_url) as made:
        yield made


def attack(workers: list[Worker], watch: Database, randomness: random.Random) -> None:
    """Kill a worker, or take its connection away."""
    if randomness.random() < 0.5:
        randomness.choice(workers).kill()
    else:
        watch.run(lambda connection: connection.execute(_TERMINATE, {"application": APPLICATION}))


@dataclass(frozen=True)
class Fate:
    """What happens to two collectors, two rollup workers and the one that seals.

    `deaths`: for each worker at which step its next lives end; `attacks`: seconds between one from outside and the
    next; `seed` decides what those hit.
    """

    deaths: list[list[int]]
    attacks: list[float]
    seed: int


FATES = st.builds(
    Fate,
    deaths=st.lists(st.lists(st.integers(0, 120), max_size=4), min_size=5, max_size=5),
    attacks=st.lists(st.floats(0.0, 0.2), max_size=6),
    seed=st.integers(0, 2**32),
)


def survive(jobs: list[Job], fate: Fate, watch: Database) -> int:
    """Let collectors, rollup workers and a sealer work until all is stored; gives how many lives that took."""
    randomness = random.Random(fate.seed)  # noqa: S311 - a test's own randomness
    deaths = iter(fate.deaths)
    collectors = [Worker(collect, job, list(next(deaths))) for job in jobs]
    rollups = [Worker(roll_up, job, list(next(deaths))) for job in jobs]
    rollups.append(Worker(seal, jobs[0], list(next(deaths))))
    started, left = time.monotonic(), list(itertools.accumulate(fate.attacks))
    while all_go_on([*collectors, *rollups], needed=collectors):
        passed = time.monotonic() - started
        assert passed < PATIENCE_SECONDS
        if left and passed > left[0]:
            left.pop(0)
            attack([*collectors, *rollups], watch, randomness)
        time.sleep(POLL_SECONDS)
    jobs[0].stop.touch()
    while all_go_on(rollups, needed=rollups):
        assert time.monotonic() - started < PATIENCE_SECONDS
        time.sleep(POLL_SECONDS)
    return sum(worker.lives for worker in (*collectors, *rollups))


def all_go_on(workers: list[Worker], *, needed: list[Worker]) -> bool:
    """Start those again that were killed; gives whether any of the needed ones still works."""
    working = [worker for worker in workers if worker.goes_on()]
    return any(worker in working for worker in needed)


@settings(
    max_examples=examples(8),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(script=scripts(start_ms=milliseconds(START)), fate=FATES)
def test_numbers_are_right_after_kill_9_and_lost_connections(
    watch: Database, database_url: str, tmp_path_factory: pytest.TempPathFactory, script: Script, fate: Fate
) -> None:
    scene = RuledScene.make(watch, script, name=f"k{next(NUMBERS)}")
    rules, plain = scene.rules(), settings_for(tmp_path_factory.mktemp("home"))
    watch.run(lambda connection: publish_rules(connection, plain, rules, now=START))
    now = from_milliseconds(script.arrivals[-1].at_ms) + timedelta(seconds=1)
    folder = tmp_path_factory.mktemp("lives")
    jobs = [Job(database_url, scene, now, folder, number) for number in range(2)]
    lives = survive(jobs, fate, watch)
    event(f"lives lost: {lives - len(fate.deaths)}")
    roll_up_all(Rollup(watch, "last"), now=now)
    scene.assert_equals_oracle(watch)
    scene.assert_outputs_are_right(watch, rules)
