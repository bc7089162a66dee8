"""`aggregator init`: write a commented sample configuration."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from aggregator.errors import EnvironmentRefusedError, UsageError


def init(path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("aggregator.toml")) -> None:
    """Write a commented sample configuration to PATH; a file that exists is never overwritten."""
    sample = files("aggregator.config").joinpath("sample.toml").read_text(encoding="utf-8")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(sample)
    except FileExistsError:
        raise UsageError(f"{path} exists and is not overwritten; name another file, or move it away") from None
    except OSError as error:
        raise EnvironmentRefusedError(f"{path} cannot be written: {error.strerror}; name another file") from None
    typer.echo(f"{path} is written; edit it, then run: aggregator --config {path} check")
