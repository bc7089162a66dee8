"""`aggregator up`: everything on this machine, until Ctrl-C."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aggregator.config.load import load_settings
from aggregator.embedded.supervisor import run_everything
from aggregator.logs import configure_logging

_DataDir = Annotated[Path | None, typer.Option("--data-dir", metavar="D", help="Where data, logs and servers live.")]
_Verbose = Annotated[bool, typer.Option("--verbose", help="Show the logs of all processes on standard error.")]


def up(
    context: typer.Context,
    data_dir: _DataDir = None,
    verbose: _Verbose = False,  # noqa: FBT002 - typer's way to declare a flag
) -> None:
    """Run everything: PostgreSQL and Valkey where no URL is configured, beat, worker, exporter and web."""
    settings = load_settings(context.obj.config, overrides={"data_dir": data_dir})
    configure_logging(settings.log_level, settings.log_format)
    run_everything(settings, is_verbose=verbose)
