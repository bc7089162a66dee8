"""`aggregator web`: the installation's metrics, health and status page."""

from __future__ import annotations

from typing import Annotated

import typer

from aggregator.cli.invocation import settings_of
from aggregator.config.servers import require_database_url


def web(
    context: typer.Context,
    listen: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Where to listen.")] = None,
) -> None:
    """Serve /, /metrics, /-/healthy, /-/ready and /api/v1 until stopped; nothing can be changed through it."""
    from aggregator.serving.observer import Addresses  # noqa: PLC0415 - after --help
    from aggregator.serving.web import serve  # noqa: PLC0415 - as above

    settings = settings_of(context, web_listen=listen)
    broker, cache = settings.broker_url, settings.cache_url
    addresses = Addresses(
        require_database_url(settings),
        broker.get_secret_value() if broker else None,
        cache.get_secret_value() if cache else None,
        settings.namespace,
    )
    serve(settings.web_listen, addresses)
