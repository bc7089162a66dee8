"""The diagnosis of a RabbitMQ as broker: that it can be entered, and its version."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from aggregator.serving.doctor.finding import Finding, fine, warning, wrong

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TIMEOUT_SECONDS = 3.0
OLDEST = (3, 10)


def server_properties(url: str) -> dict[str, Any]:
    """What the server says of itself when it is entered; raises whatever the driver raises where it cannot be."""
    kombu: Any = import_module("kombu")  # only installations with RabbitMQ pay for it
    timeouts = {"read_timeout": TIMEOUT_SECONDS, "write_timeout": TIMEOUT_SECONDS}
    with kombu.Connection(url, connect_timeout=TIMEOUT_SECONDS, transport_options=timeouts) as connection:
        connection.connect()
        return dict(connection.connection.server_properties)


def diagnose(properties: Mapping[str, Any]) -> Iterator[Finding]:
    """Findings on the broker."""
    product, version = str(properties.get("product", "AMQP")), str(properties.get("version", "?"))
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if product != "RabbitMQ":
        yield warning("broker version", f"{product} {version}", "only RabbitMQ, Redis and Valkey are tested as broker")
    elif numbers < OLDEST:
        yield wrong(
            "broker version", f"RabbitMQ {version} has no quorum queues of today", "upgrade it to 3.10 or newer"
        )
    else:
        yield fine("broker version", f"RabbitMQ {version}")
