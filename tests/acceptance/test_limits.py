"""Limits and stops with real processes: soft and hard limits, warm and bounded stops, children that are replaced."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from aggregator.embedded.process import wait_until
from tests.acceptance.machines import (
    BEAT,
    PATIENCE,
    Machine,
    Running,
    ask,
    children,
    machines,
    rows,
    sockets,
    unfinished,
    wait_for,
)

pytestmark = pytest.mark.acceptance

#: What a supervisor gives the worker, as in deploy/systemd.
GRACE = timedelta(seconds=30)
#: What a child does before anything else; as long as a busy machine may take to let it.
AT_ONCE = timedelta(seconds=30)
CONFIGURATION = """
worker_concurrency = 2

[[sources]]
name = "often"
kind = "host"
interval = "1s"
keep = ["node_load1"]

[[sources]]
name = "slow"
kind = "command"
command = ["sleep", "3"]
interval = "4s"
timeout = "4s"
"""
#: Tasks of a test's own, with our policy; and one of ours, whose work hangs.
LOOPS = '''
from aggregator.tasks import app, work


@app.task(name="aggregator.loop")
def loop():
    """A long loop in Python."""
    while True:
        sum(range(1_000))


@app.task(name="aggregator.stuck")
def stuck():
    """A loop in C that looks at no signal."""
    sum(range(10**15))


work.verify = lambda slot: stuck()
'''
OPEN_CLAIM = """
    SELECT count(*) > 0 FROM aggregator.collections AS c JOIN aggregator.shards AS s ON s.id = c.shard_id
    JOIN aggregator.sources AS o ON o.id = s.source_id WHERE o.name = 'slow' AND c.finished_at IS NULL
"""
SLOW_IS_DONE = """
    SELECT count(*) FILTER (WHERE c.finished_at IS NULL) = 0 AND count(*) > 0 FROM aggregator.collections AS c
    JOIN aggregator.shards AS s ON s.id = c.shard_id
    JOIN aggregator.sources AS o ON o.id = s.source_id WHERE o.name = 'slow'
"""
OFTEN = """
    FROM aggregator.collections AS c JOIN aggregator.shards AS s ON s.id = c.shard_id
    JOIN aggregator.sources AS o ON o.id = s.source_id WHERE o.name = 'often' AND c.finished_at IS NOT NULL
"""


@pytest.fixture
def machine(database_url: str, broker_url: str, tmp_path: Path) -> Iterator[Machine]:
    urls = {"AGGREGATOR_DATABASE_URL": database_url, "AGGREGATOR_BROKER_URL": broker_url}
    made = Machine(tmp_path / "home", "here", urls)
    made.configure(CONFIGURATION)
    with machines(made):
        made.run("aggregator", "db", "migrate")
        yield made


def with_settings(machine: Machine, text: str) -> None:
    """Celery settings applied after ours."""
    own = machine.folder / "own.py"
    own.write_text(text)
    machine.environment["AGGREGATOR_CELERYCONFIG"] = str(own)


def with_loops(machine: Machine, text: str = "") -> None:
    """The same, and the tasks that never end."""
    (machine.folder / "loops.py").write_text(LOOPS)
    with_settings(machine, f'imports = ("aggregator.tasks", "loops")\n{text}')
    machine.environment["PYTHONPATH"] += f":{machine.folder}"


def send(machine: Machine, task: str) -> None:
    machine.python_session(f"import loops; loops.{task}.delay()")


def metric(machine: Machine, name: str, **labels: str) -> float:
    """A sum over the series of one of the node's own metrics; NaN, which equals nothing, while nobody answers."""
    found = machine.samples()
    return sum(
        (
            sample.value
            for sample in found
            if sample.name == f"aggregator_{name}" and labels.items() <= sample.labels.items()
        ),
        start=0.0 if found else math.nan,
    )


def shared_sockets(worker: Running) -> set[str]:
    """Those that children have in common with the worker that they were forked from."""
    return sockets(worker.process.pid) & set().union(*map(sockets, children(worker.process)))


def test_the_soft_limit_ends_a_loop_in_python_and_the_child_lives(machine: Machine) -> None:
    with_loops(machine, 'task_annotations = {"aggregator.loop": {"soft_time_limit": 1}}\n')
    worker = machine.start_worker()
    before = children(worker.process)
    send(machine, "loop")
    assert wait_until(lambda: metric(machine, "task_runs_total", task="loop", outcome="failed") == 1, PATIENCE)
    assert "SoftTimeLimitExceeded" in worker.log.read_text()
    assert wait_until(lambda: metric(machine, "tasks_in_progress", task="loop") == 0, PATIENCE)
    assert children(worker.process) == before


def test_the_hard_limit_kills_the_child_and_counts_the_job(machine: Machine, database_url: str) -> None:
    # Of this task alone: the others, which tell of it, may take their time.
    with_loops(machine, 'task_annotations = {"aggregator.verify": {"soft_time_limit": 1, "time_limit": 2}}\n')
    worker = machine.start_worker()
    wait_for(database_url, "SELECT count(*) = 1 FROM aggregator.nodes")
    before = children(worker.process)
    machine.python_session("from aggregator.tasks import verify; verify.delay()")
    wait_for(database_url, "SELECT count(*) = 1 FROM aggregator.job_losses")
    assert rows(database_url, "SELECT task, losses, reason FROM aggregator.job_losses") == [
        ("verify", 1, "hard time limit")
    ]

    def is_replaced() -> bool:
        now = children(worker.process)
        return len(now) == len(before) and len(set(before) - set(now)) == 1

    assert wait_until(is_replaced, PATIENCE), (before, children(worker.process))
    # Its successor was forked from a worker with connections, and has no task yet for which it would make its own.
    assert len(sockets(worker.process.pid)) > 1
    assert wait_until(lambda: not shared_sockets(worker), AT_ONCE), shared_sockets(worker)
    assert wait_until(lambda: metric(machine, "task_runs_total", task="verify", outcome="lost") == 1, PATIENCE)


def test_a_warm_stop_lets_a_collection_end(machine: Machine, database_url: str) -> None:
    worker = machine.start_worker()
    machine.start(*BEAT)
    wait_for(database_url, OPEN_CLAIM)
    os.kill(worker.process.pid, signal.SIGTERM)
    assert wait_until(lambda: worker.process.poll() is not None, GRACE), worker.said()[-3_000:]
    assert worker.process.returncode == 0
    wait_for(database_url, SLOW_IS_DONE)


def test_a_warm_stop_ends_although_a_child_stands_still(machine: Machine, broker_url: str) -> None:
    worker = machine.start_worker()
    # A task that it has in hand is waited for, which is another matter; it is counted before its end is known.
    assert wait_until(lambda: metric(machine, "task_runs_total", task="announce", outcome="ok") >= 1, PATIENCE)
    assert wait_until(lambda: unfinished(broker_url) == 0, PATIENCE)
    os.kill(children(worker.process)[0], signal.SIGSTOP)
    os.kill(worker.process.pid, signal.SIGTERM)
    assert wait_until(lambda: worker.process.poll() is not None, GRACE), worker.log.read_text()[-3_000:]
    assert "end_forced" in worker.log.read_text()


def test_a_bounded_stop_ends_within_the_supervisors_grace_whatever_hangs(machine: Machine, database_url: str) -> None:
    with_loops(machine)
    worker = machine.start_worker()
    send(machine, "stuck")
    assert wait_until(lambda: metric(machine, "tasks_in_progress", task="stuck") == 1, PATIENCE)
    os.kill(worker.process.pid, signal.SIGQUIT)
    assert wait_until(lambda: worker.process.poll() is not None, GRACE), worker.said()[-3_000:]
    # What a stop cuts short is no loss.
    assert ask(database_url, "SELECT count(*) FROM aggregator.job_losses") == 0
    assert "process_lost" not in worker.log.read_text()


@pytest.mark.parametrize(
    "setting", ["worker_max_tasks_per_child = 4\n", "worker_max_memory_per_child = 1\n"], ids=["tasks", "memory"]
)
def test_children_that_are_replaced_lose_neither_metrics_nor_collections(
    machine: Machine, database_url: str, setting: str
) -> None:
    # Seldom enough that no message expires while children begin.
    machine.configure(CONFIGURATION.partition('[[sources]]\nname = "slow"')[0].replace('"1s"', '"5s"'))
    with_settings(machine, setting)  # in kB: what is far below that of any child replaces it after each task
    worker = machine.start_worker()
    beat = machine.start(*BEAT)
    seen: set[int] = set()

    def have_been_replaced() -> bool:
        seen.update(children(worker.process))
        return len(seen) >= 4 and ask(database_url, f"SELECT count(*) >= 2 {OFTEN}")

    assert wait_until(have_been_replaced, 2 * PATIENCE), len(seen)
    beat.stop()
    # Until what is under way has ended.
    wait_for(database_url, "SELECT count(*) = 0 FROM aggregator.collections WHERE finished_at IS NULL")

    def are_equal() -> bool:
        collected = ask(database_url, f"SELECT count(*) {OFTEN}")
        return metric(machine, "collections_total", source="often", outcome="ok") == collected

    assert wait_until(are_equal, PATIENCE)
    assert wait_until(lambda: metric(machine, "task_runs_total", outcome="lost") == 0, PATIENCE)
    assert ask(database_url, "SELECT count(*) FROM aggregator.job_losses") == 0
