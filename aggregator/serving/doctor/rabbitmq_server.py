"""The diagnosis of a RabbitMQ as broker: that it can be entered, and its version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aggregator.serving.amqp import amqp_connection
from aggregator.serving.doctor.finding import Finding, fine, warning, wrong

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TIMEOUT_SECONDS = 3.0
OLDEST = (3, 10)


def server_properties(url: str) -> dict[str, Any]:
    """What the server says of itself when it is entered; raises whatever the driver raises where it cannot be."""
    with amqp_connection(url, timeout_seconds=TIMEOUT_SECONDS) as connection:
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
