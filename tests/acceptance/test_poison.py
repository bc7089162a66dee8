"""Jobs that kill their process are set aside, tried again, released; healthy ones that are killed are not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from aggregator.embedded.process import wait_until
from tests.acceptance.faults.fault import IS_LONG, LONG_VARIABLE
from tests.acceptance.machines import (
    BEAT,
    PATIENCE,
    Machine,
    Running,
    ask,
    children,
    kill,
    machines,
    rows,
    unfinished,
    wait_for,
)
from tests.acceptance.rabbitmq import RabbitMQ

pytestmark = pytest.mark.acceptance

#: Its parent is the worker's child that runs it.
KILL_PARENT = "kill -9 $PPID"
CONFIGURATION = """
[[sources]]
name = "poison"
kind = "command"
command = ["sh", "-c", "test -e {flag} && {does}; echo total 1"]
parse = {{ regex = 'total (?P<total>.+)' }}
interval = "1s"
timeout = "1s"

[[sources]]
name = "healthy"
kind = "host"
interval = "1s"
keep = ["node_load1"]
"""
SET_ASIDE = "SELECT count(*) = 1 FROM aggregator.job_losses WHERE quarantined_at IS NOT NULL"
COLLECTED = """
    SELECT count(*) >= 3 FROM aggregator.collections AS c JOIN aggregator.shards AS s ON s.id = c.shard_id
    JOIN aggregator.sources AS o ON o.id = s.source_id
    WHERE o.name = %s AND c.finished_at IS NOT NULL AND c.started_at > %s
"""
NOW = "SELECT now()"
#: Once, and two retries.
MOST_RUNS = 3
#: Until it is set aside, and what was in flight then: several slots' messages, each up to that often.
MOST_LOSSES = 4 * MOST_RUNS


def make_machine(database_url: str, broker_url: str, folder: Path) -> Machine:
    urls = {"AGGREGATOR_DATABASE_URL": database_url, "AGGREGATOR_BROKER_URL": broker_url}
    made = Machine(folder / "home", "here", urls)
    made.configure(CONFIGURATION.format(flag=folder / "flag", does=KILL_PARENT))
    return made


@pytest.fixture
def machine(database_url: str, broker_url: str, tmp_path: Path) -> Iterator[Machine]:
    made = make_machine(database_url, broker_url, tmp_path)
    with machines(made):
        yield made


def begin(machine: Machine) -> Running:
    machine.run("aggregator", "db", "migrate")
    worker = machine.start_worker()
    machine.start(*BEAT)
    return worker


def losses_of(worker: Running) -> int:
    """How many children were killed."""
    return worker.log.read_text().count("exited with 'signal 9")


def listed(machine: Machine) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(machine.run("aggregator", "quarantine", "list", "--json").stdout)
    return found


def assert_a_poison_job_is_set_aside_and_released(machine: Machine, url: str, flag: Path) -> None:
    worker = begin(machine)
    wait_for(url, COLLECTED, "poison", datetime.min.replace(tzinfo=UTC))
    flag.touch()
    wait_for(url, SET_ASIDE)
    (found,) = listed(machine)
    assert str(found["name"]).startswith("collect:poison:")
    assert found["reason"] == "signal 9 (SIGKILL)"
    # What was in flight when it was set aside may have come on top; then it has an end.
    seen: list[tuple[int, int]] = []

    def stand_still() -> bool:
        wait_for(url, COLLECTED, "healthy", ask(url, NOW))
        seen.append((ask(url, "SELECT losses FROM aggregator.job_losses"), losses_of(worker)))
        return seen[-2:-1] == seen[-1:]

    assert wait_until(stand_still, PATIENCE), seen
    assert seen[-1][0] <= MOST_LOSSES
    quarantined = f"job {found['name']} is quarantined"
    machine.run_until(lambda said: quarantined in said, "aggregator", "status", exit_code=1)
    machine.run("aggregator", "quarantine", "release", "collect:none:1", exit_code=2)
    flag.unlink()
    machine.run("aggregator", "quarantine", "release", str(found["name"]))
    wait_for(url, COLLECTED, "poison", ask(url, NOW))
    assert listed(machine) == []
    assert worker.process.poll() is None


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_a_message_that_kills_comes_back_twice_and_is_acknowledged(
    broker: str, database_url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """By hand: no slot is claimed, so that every time it is read it kills."""
    url = request.getfixturevalue("rabbitmq").url if broker == "rabbitmq" else request.getfixturevalue("broker_url")
    machine = make_machine(database_url, url, tmp_path)
    with machines(machine):
        machine.run("aggregator", "db", "migrate")
        worker = machine.start_worker()
        wait_for(database_url, "SELECT count(*) = 1 FROM aggregator.nodes")
        (tmp_path / "flag").touch()
        machine.python_session('from aggregator.tasks import collect; collect.delay("poison")')
        worker.says("Task handler raised error")
        assert wait_until(lambda: unfinished(url, "collect") == 0, PATIENCE)
        worker.stop()
        # What a worker that is gone had not acknowledged would be there again.
        assert unfinished(url, "collect") == 0
        assert losses_of(worker) == MOST_RUNS
        assert "loss_unreported" not in worker.log.read_text()
        assert ask(database_url, "SELECT count(*) FROM aggregator.job_losses") == 0


def test_a_poison_job_is_set_aside_and_released(machine: Machine, database_url: str, tmp_path: Path) -> None:
    assert_a_poison_job_is_set_aside_and_released(machine, database_url, tmp_path / "flag")


@pytest.mark.skipif(not IS_LONG, reason=f"long: {LONG_VARIABLE}=1; what differs is how its messages come back, above")
def test_a_poison_job_is_set_aside_and_released_on_rabbitmq(
    database_url: str, rabbitmq: RabbitMQ, tmp_path: Path
) -> None:
    machine = make_machine(database_url, rabbitmq.url, tmp_path)
    with machines(machine):
        assert_a_poison_job_is_set_aside_and_released(machine, database_url, tmp_path / "flag")


def test_a_job_whose_pause_is_over_heals_by_itself(machine: Machine, database_url: str, tmp_path: Path) -> None:
    begin(machine)
    (tmp_path / "flag").touch()
    wait_for(database_url, SET_ASIDE)
    (tmp_path / "flag").unlink()

    def is_forgotten() -> bool:
        """The pause is over, again after each loss that was still under way; and the job has succeeded."""
        rows(database_url, "UPDATE aggregator.job_losses SET retry_at = least(retry_at, now()) RETURNING 1")
        return ask(database_url, "SELECT count(*) FROM aggregator.job_losses") == 0

    assert wait_until(is_forgotten, PATIENCE)
    wait_for(database_url, COLLECTED, "poison", ask(database_url, NOW))


def test_healthy_jobs_whose_children_are_killed_again_and_again_are_never_set_aside(
    machine: Machine, database_url: str
) -> None:
    worker = begin(machine)
    for _ in range(5):
        wait_for(database_url, COLLECTED, "healthy", ask(database_url, NOW))
        before = children(worker.process)
        kill(before[0])
        assert wait_until(lambda before=before: len(set(children(worker.process)) - set(before)) == 1, PATIENCE)
        assert ask(database_url, "SELECT count(*) FROM aggregator.job_losses WHERE quarantined_at IS NOT NULL") == 0
    assert worker.process.poll() is None
