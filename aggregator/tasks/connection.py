"""How a connection to the broker is made anew: within seconds, however long the broker was away."""

from __future__ import annotations

from typing import Any

from celery.app.amqp import AMQP
from kombu.connection import Connection

#: Kombu's own pauses grow to 30 s: after an hour without a broker the first collection would wait so long again.
PAUSES = {"interval_start": 0.5, "interval_step": 0.5, "interval_max": 2.0}


class PatientConnection(Connection):
    """Kombu's connection with short pauses between the tries to connect; `clone` keeps the class."""

    def _ensure_connection(self, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - kombu is untyped
        return super()._ensure_connection(*arguments, **(PAUSES | options))  # type: ignore[no-untyped-call] # as above


class PatientAMQP(AMQP):
    """Celery's AMQP with that connection: of the worker, of beat, and of whoever sends."""

    Connection = PatientConnection
