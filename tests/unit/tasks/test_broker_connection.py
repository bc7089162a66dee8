"""A broker that was away for an hour is found again within seconds."""

from __future__ import annotations

import pytest
from kombu.exceptions import OperationalError

from aggregator.embedded.ports import free_port
from aggregator.tasks import app
from aggregator.tasks.connection import LONGEST_PAUSE_SECONDS, PatientConnection


def test_the_pauses_between_tries_to_connect_stay_short() -> None:
    pauses: list[float] = []
    connection = PatientConnection(f"redis://127.0.0.1:{free_port()}/0")

    def note(_error: BaseException, pause: float) -> None:
        pauses.append(pause)
        # Nobody waits here: only how long it would be matters.
        if len(pauses) == 2:
            raise StopIteration

    with pytest.raises((StopIteration, OperationalError)):
        connection.ensure_connection(note)
    assert pauses[-1] <= LONGEST_PAUSE_SECONDS


def test_whoever_connects_has_such_a_connection() -> None:
    for made in (app.connection_for_read(), app.connection_for_write(), app.connection_for_write().clone()):
        assert isinstance(made, PatientConnection)


def test_a_message_that_is_published_while_the_broker_is_away_is_given_up_soon() -> None:
    connection = PatientConnection(f"redis://127.0.0.1:{free_port()}/0")
    # As a producer does it: kombu hands the pauses on by their place.
    publish = connection.ensure(connection, connection.connect, max_retries=1, interval_start=0, interval_step=0.1)
    with pytest.raises(OperationalError):
        publish()
