"""`aggregator exporter`: a node's own metrics, without its worker."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from aggregator.cli.invocation import settings_of


def exporter(
    context: typer.Context,
    listen: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Where to listen.")] = None,
) -> None:
    """Serve /metrics of what this node's worker did, until stopped."""
    settings = settings_of(context, exporter_listen=listen)
    directory = settings.data_dir / "metrics" / settings.node
    arguments = ("--listen", settings.exporter_listen, "--directory", str(directory), "--parent", "0")
    # Another program in this process: the command line's own imports would weigh more than the exporter.
    os.execv(sys.executable, (sys.executable, "-m", "aggregator.serving.exporter", *arguments))  # noqa: S606 - no shell
