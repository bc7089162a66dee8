"""A node's counters are exact although its children are replaced after every few tasks, and killed in between."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from aggregator.embedded.process import wait_until
from tests.acceptance.machines import (
    PATIENCE,
    Machine,
    children,
    kill,
    machines,
    right_answer,
    rows,
    unfinished,
    wait_for,
)
from tests.effort import examples

pytestmark = pytest.mark.acceptance

ROUNDS = examples(2)
TASKS_A_ROUND = 12
TASKS_A_CHILD = 4
CHILDREN = 2
#: Counters, gauges that are summed, those of which the newest counts, and histograms.
FILES_A_CHILD = 4
CONFIGURATION = """
[[sources]]
name = "host"
kind = "host"
interval = "1d"
keep = ["node_load1", "node_memory_MemTotal_bytes"]
"""
SEND = f"from aggregator.tasks import collect\nfor _ in range({TASKS_A_ROUND}): collect.delay('host')"
#: What the database says of all collections that have ended: how many, how many were well, and how many samples each.
LEDGER = """
    SELECT count(*), count(*) FILTER (WHERE outcome = '{1}'), (SELECT count(*) FROM aggregator.series)
    FROM aggregator.collections WHERE finished_at IS NOT NULL
"""

Values = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture
def machine(database_url: str, broker_url: str, tmp_path: Path) -> Iterator[Machine]:
    """A node whose children are replaced after a few tasks."""
    own = tmp_path / "celery.py"
    own.write_text(f"worker_max_tasks_per_child = {TASKS_A_CHILD}\nworker_concurrency = {CHILDREN}\n")
    urls = {"AGGREGATOR_DATABASE_URL": database_url, "AGGREGATOR_BROKER_URL": broker_url}
    made = Machine(tmp_path / "home", "here", {**urls, "AGGREGATOR_CELERYCONFIG": str(own)})
    made.configure(CONFIGURATION)
    with machines(made):
        yield made


def exported(machine: Machine) -> Values:
    """What the node's exporter says, by name without the prefix and by labels."""
    return {
        (sample.name.removeprefix("aggregator_"), tuple(sorted(sample.labels.items()))): sample.value
        for sample in right_answer(machine.samples, bool)
    }


def runs(values: Values, outcome: str) -> float:
    return values["task_runs_total", (("outcome", outcome), ("task", "collect"))]


def test_counters_say_what_the_database_says_after_children_were_replaced_and_killed(
    machine: Machine, database_url: str, broker_url: str
) -> None:
    machine.run("aggregator", "db", "migrate")
    worker = machine.start_worker()
    wait_for(database_url, "SELECT count(*) = 1 FROM aggregator.nodes")
    # Every task begins at 0, so that its first failure is an increase.
    values = exported(machine)
    assert {runs(values, outcome) for outcome in ("ok", "failed")} == {0}
    seen: set[int] = set()
    for sent in range(TASKS_A_ROUND, (ROUNDS + 1) * TASKS_A_ROUND, TASKS_A_ROUND):
        seen.update(children(worker.process))
        machine.python_session(SEND)

        def all_ended(sent: int = sent) -> bool:
            seen.update(children(worker.process))
            return runs(exported(machine), "ok") >= sent

        assert wait_until(all_ended, PATIENCE), exported(machine)
        # Each is counted before its end is known to the broker.
        assert wait_until(lambda: unfinished(broker_url, "collect", "node.here") == 0, PATIENCE)
        before = children(worker.process)
        for child in before:
            with suppress(ProcessLookupError):  # after its last task it ends by itself
                kill(child)
        assert wait_until(lambda before=before: len(set(children(worker.process)) - set(before)) == CHILDREN, PATIENCE)

    values = exported(machine)
    sent = ROUNDS * TASKS_A_ROUND
    (ended, well, samples_each) = rows(database_url, LEDGER)[0]
    assert len(seen) > ROUNDS * CHILDREN  # more than were killed
    assert (ended, well) == (sent, sent)
    assert (runs(values, "ok"), runs(values, "failed")) == (sent, 0)
    assert values["task_duration_seconds_count", (("task", "collect"),)] == sent
    assert values["collections_total", (("outcome", "ok"), ("source", "host"))] == sent
    assert values["collect_duration_seconds_count", (("source", "host"),)] == sent
    assert values["samples_total", (("source", "host"),)] == sent * samples_each > sent
    assert values["tasks_in_progress", (("task", "collect"),)] == 0
    files = list((machine.folder / "data" / "metrics" / "here").glob("*.db"))
    assert len(files) <= CHILDREN * FILES_A_CHILD
