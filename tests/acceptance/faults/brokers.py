"""Faults of the broker: restarted with and without its data, emptied, full."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

import psutil
import redis

from tests.acceptance.faults.fault import RESTART, Fault, lasting
from tests.acceptance.faults.scene import Scene
from tests.acceptance.machines import PATIENCE

#: Long enough for kombu's own pauses to have grown to half a minute.
_AWAY = lasting(2, 90)
#: RabbitMQ has to load what it had before anybody can connect.
_RABBIT_RESTART = 2 * RESTART


def _is_in_the_middle_of_a_task(scene: Scene) -> bool:
    """Whether a worker runs the command of the source `slow`: its message is not acknowledged."""
    for worker in scene.workers:
        with suppress(psutil.NoSuchProcess):
            for process in psutil.Process(worker.process_id).children(recursive=True):
                if process.name() == "sleep":
                    return True
    return False


def _wait_for_a_task(scene: Scene) -> None:
    """Wait until a worker has a message that it will have to give back."""
    assert scene.wait(lambda: _is_in_the_middle_of_a_task(scene), PATIENCE)


def _stop(scene: Scene) -> None:
    _wait_for_a_task(scene)
    scene.broker.stop()


def _kill(scene: Scene) -> None:
    _wait_for_a_task(scene)
    scene.broker.kill()


def _start(scene: Scene) -> None:
    scene.broker.start()


def _start_empty(scene: Scene) -> None:
    scene.redis.lose_data()
    scene.redis.start()


def _flush(scene: Scene) -> None:
    with scene.redis.client() as client:
        client.flushall()


def _fill(scene: Scene) -> None:
    """As if other data had taken all the memory that it may use: every write is refused from now on."""
    with scene.redis.client() as client:
        client.config_set("maxmemory", "1")
        try:
            client.set("full", "x")
        except redis.OutOfMemoryError:
            return
        raise AssertionError("a full server took a write")


def _give_back(scene: Scene) -> None:
    with scene.redis.client() as client:
        client.config_set("maxmemory", "0")


RESTARTED = Fault(
    "Redis stopped and started, with its data", "reconnect; old wakes are expired", _stop, _start, lasts=_AWAY
)
RESTARTED_EMPTY = Fault(
    "Redis killed and started without its data", "reconnect; lost wakes are missed", _kill, _start_empty, lasts=_AWAY
)
FLUSHED = Fault("FLUSHALL", "lost wakes are missed", _flush, lasts=timedelta(0))
FULL = Fault(
    "Redis at maxmemory, noeviction",
    "a worker that ends is started again by its supervisor",
    _fill,
    _give_back,
    lasts=timedelta(seconds=4),
)
RESTARTS = (RESTARTED, RESTARTED_EMPTY)
FAULTS = (*RESTARTS, FLUSHED, FULL)

RABBIT_RESTARTED = Fault(
    "RabbitMQ stopped and started",
    "reconnect; old wakes are expired",
    _stop,
    _start,
    lasts=_AWAY,
    limit=_RABBIT_RESTART,
)
RABBIT_KILLED = Fault(
    "RabbitMQ killed and started", "reconnect; queues are durable", _kill, _start, limit=_RABBIT_RESTART
)
RABBIT_FAULTS = (RABBIT_RESTARTED, RABBIT_KILLED)
