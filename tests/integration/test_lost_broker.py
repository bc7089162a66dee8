"""A broker that is gone while messages are unacknowledged: the connection is given up without an error."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from kombu import Consumer, Exchange, Producer, Queue
from kombu.message import Message

from aggregator.tasks.connection import PatientConnection
from tests.acceptance.faults.servers import Redis

_WORK = Queue("work", Exchange("work"), routing_key="work")
_PATIENCE_SECONDS = 30.0
#: As the one that a worker listens on for control commands, on a channel of its own.
_CONTROL = Queue("control", Exchange("control", type="fanout"), auto_delete=True, durable=False)


def _drain(connection: PatientConnection, received: list[Message]) -> None:
    """Until one came and then nothing: it has asked for the next message then, and Redis answers after a second."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not received and time.monotonic() < deadline:
        _drain_until_silence(connection)
    _drain_until_silence(connection)


def _drain_until_silence(connection: PatientConnection) -> None:
    with suppress(TimeoutError):
        while True:
            connection.drain_events(timeout=0.2)


def test_a_lost_connection_is_closed_twice_with_a_message_that_nobody_has_acknowledged(tmp_path: Path) -> None:
    server = Redis(tmp_path / "redis")
    server.start()
    received: list[Message] = []
    try:
        connection = PatientConnection(server.url)
        channel = connection.default_channel
        Producer(channel).publish({}, exchange=_WORK.exchange, routing_key="work", declare=[_WORK])
        Consumer(channel, [_WORK], callbacks=[lambda _, message: received.append(message)]).consume()
        Consumer(connection.channel(), [_CONTROL]).consume()
        _drain(connection, received)
        assert len(received) == 1
    finally:
        server.kill()
    # What a worker does.
    connection.collect(socket_timeout=1)
    connection.close()
    # And what is done at the end of a process to a channel that still holds messages.
    channel.qos.restore_unacked_once()
    server.start()
    try:
        with server.client() as client:
            assert client.hlen("unacked") == 1
    finally:
        server.stop()
