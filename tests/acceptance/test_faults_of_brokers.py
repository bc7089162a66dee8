"""Brokers that go away, come back empty or are full: messages are hints, and the ledger is complete."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import missing
from tests.acceptance.faults import brokers
from tests.acceptance.faults.fault import IS_LONG, endure_all
from tests.acceptance.faults.scene import Cast, Scene, scene
from tests.acceptance.faults.servers import Rabbit
from tests.acceptance.rabbitmq import RabbitMQ, rabbitmq_binary

pytestmark = pytest.mark.acceptance


@pytest.fixture
def here(open_directory: Path, tmp_path: Path) -> Iterator[Scene]:
    with scene(tmp_path / "machines", open_directory / tmp_path.name, cast=Cast(beats=2)) as made:
        yield made


@pytest.fixture
def with_rabbitmq(open_directory: Path, tmp_path: Path) -> Iterator[Scene]:
    binary = rabbitmq_binary()
    if binary is None:
        missing("rabbitmq-server")
    else:
        servers = open_directory / tmp_path.name
        node = Rabbit(RabbitMQ(servers / "rabbitmq", binary=binary))
        results = {"AGGREGATOR_RESULT_BACKEND": "rpc://"}
        with scene(tmp_path / "machines", servers, broker=node, cast=Cast(environment=results)) as made:
            yield made


def assert_nobody_has_ended(here: Scene) -> None:
    """A broker that restarts is no reason to: not for those who were in the middle of a task either."""
    assert {actor.name: actor.restarts for actor in here.actors if actor.restarts} == {}


def test_redis_that_is_restarted_emptied_and_full_loses_nothing(here: Scene) -> None:
    restarts = brokers.RESTARTS if IS_LONG else (brokers.RESTARTED_EMPTY,)
    assert len(endure_all(here, restarts)) == len(restarts)
    assert_nobody_has_ended(here)
    # `test_soak` has the one whose data are flushed.
    assert len(endure_all(here, (brokers.FLUSHED, brokers.FULL) if IS_LONG else (brokers.FULL,)))
    here.check().assert_right()


def test_rabbitmq_that_is_stopped_and_killed_loses_nothing(with_rabbitmq: Scene) -> None:
    endured = endure_all(with_rabbitmq, brokers.RABBIT_FAULTS)
    assert len(endured) == len(brokers.RABBIT_FAULTS)
    assert_nobody_has_ended(with_rabbitmq)
    with_rabbitmq.check().assert_right()
