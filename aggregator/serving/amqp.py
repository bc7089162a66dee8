"""A connection to RabbitMQ for a short question, over TLS where the URL says so."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from aggregator.config.broker_tls import amqp_tls


def amqp_connection(url: str, *, timeout_seconds: float) -> Any:  # noqa: ANN401 - kombu is untyped
    """A context manager that connects when it is asked to; kombu is loaded only where there is a RabbitMQ."""
    kombu: Any = import_module("kombu")
    plain, tls = amqp_tls(url)
    timeouts = {"read_timeout": timeout_seconds, "write_timeout": timeout_seconds}
    return kombu.Connection(plain, connect_timeout=timeout_seconds, transport_options=timeouts, ssl=tls or False)
