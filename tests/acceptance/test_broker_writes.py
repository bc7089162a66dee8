"""Whoever can write to the broker: no message runs code, ends a worker, or asks for what is not configured."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection

from aggregator.embedded.process import wait_until
from tests.acceptance.machines import PATIENCE, Machine, machines, wait_for

pytestmark = pytest.mark.acceptance

CONFIGURATION = """
[[sources]]
name = "self"
kind = "selftest"
interval = "1s"
"""
COLLECTED = "SELECT count(*) >= %s FROM aggregator.collections WHERE by_hand AND finished_at IS NOT NULL"


class Touching:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.fixture
def machine(database_url: str, broker_url: str, tmp_path: Path) -> Iterator[Machine]:
    urls = {"AGGREGATOR_DATABASE_URL": database_url, "AGGREGATOR_BROKER_URL": broker_url}
    made = Machine(tmp_path / "home", "here", urls)
    made.configure(CONFIGURATION)
    with machines(made):
        made.run("aggregator", "db", "migrate")
        yield made


def send(
    broker_url: str, body: Any, *, content_type: str = "application/json", task: str = "aggregator.collect"
) -> None:
    """Put a message into the queue as it is, as any program can."""
    with closing(Connection(broker_url, transport_options={"global_keyprefix": "aggregator:"})) as connection:
        producer = connection.Producer()
        headers = {"task": task, "id": "1", "lang": "py", "argsrepr": "()", "root_id": "1"}
        producer.publish(
            body,
            routing_key="aggregator.collect",
            exchange="aggregator",
            content_type=content_type,
            content_encoding="binary" if isinstance(body, bytes) else "utf-8",
            headers=headers,
            declare=[],
        )


def arguments(*args: Any, **kwargs: Any) -> str:
    return json.dumps([args, kwargs, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])


def test_a_worker_survives_what_strangers_send_and_runs_none_of_it(
    machine: Machine, broker_url: str, database_url: str, tmp_path: Path
) -> None:
    worker = machine.start_worker()
    mark = tmp_path / "code-was-run"
    pickled = pickle.dumps(((Touching(mark),), {}, {}))
    send(broker_url, pickled, content_type="application/x-python-serialize")
    worker.says("Refusing to deserialize")
    for body in ("{", "[]", '"text"', "[[],[],[]]", "[" * 50_000, arguments({"a": "b"}), arguments("x" * 1_000_000)):
        send(broker_url, body)
    for strange in (
        arguments("self", None, None, None, "a fifth"),
        arguments("self", command=["touch", str(mark)]),
        arguments(f"$(touch {mark})"),
        arguments("'; DROP TABLE aggregator.series; --"),
        arguments("self", shard="1; DROP TABLE aggregator.series"),
        arguments("self", shard=10**30),
        arguments("self", shard=1, slot="never"),
        arguments("self", node=f"here; touch {mark}"),
    ):
        send(broker_url, strange)
    send(broker_url, arguments(f"touch {mark}"), task="os.system")
    send(broker_url, arguments("self"))
    wait_for(database_url, COLLECTED, 1)
    assert worker.process.poll() is None
    assert not mark.exists()
    # It has read all of them, and goes on.
    assert wait_until(lambda: "task_not_registered" in worker.log.read_text(), PATIENCE)
    send(broker_url, arguments("self"))
    wait_for(database_url, COLLECTED, 2)
    assert not mark.exists()


def test_a_worker_can_be_told_to_obey_no_control_command(machine: Machine) -> None:
    machine.environment["AGGREGATOR_REMOTE_CONTROL"] = "off"
    worker = machine.start_worker()
    machine.run("celery", "-A", "aggregator", "control", "shutdown", exit_code=None)
    said = machine.run("celery", "-A", "aggregator", "inspect", "ping", "--timeout", "2", exit_code=None)
    assert "No nodes replied" in said.stdout + said.stderr
    assert worker.process.poll() is None
