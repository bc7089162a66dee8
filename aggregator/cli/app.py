"""The frame of the command line: global options, lazily imported commands, and errors as one line and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from typer.main import get_command

import aggregator
from aggregator.cli.commands import COMMANDS, Command
from aggregator.errors import AggregatorError
from aggregator.known_secrets import hide_known

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PROGRAM = "aggregator"
EXIT_FOUND_WRONG = 1
#: What shells report for a program that was interrupted from the keyboard.
EXIT_INTERRUPTED = 130
#: Where shells put the words that are to be completed.
_COMPLETION_VARIABLES = ("COMP_WORDS", "_TYPER_COMPLETE_ARGS")


@dataclass
class Invocation:
    """The global options of this run; a command finds them as `context.obj` (see `aggregator.cli.invocation`)."""

    config: Path | None = None
    debug: bool = False


def run(arguments: Sequence[str]) -> int:
    """Run one command line (without the program's name) and return its exit code.

    0 fine, 1 found something wrong, 2 usage or configuration, 3 a server cannot be reached, 130 interrupted.
    """
    invocation = Invocation()
    try:
        command = get_command(_build(arguments, invocation))
        command(args=list(arguments), prog_name=PROGRAM)
    except SystemExit as end:
        return _flushed(end.code if isinstance(end.code, int) else int(end.code is not None))
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except AggregatorError as error:
        _explain(error, str(error), invocation)
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - a fault of ours is still one line, and a traceback with --debug
        _explain(error, f"{PROGRAM} failed: {type(error).__name__}: {error}; --debug shows where", invocation)
        return EXIT_FOUND_WRONG
    return _flushed(0)


def _flushed(code: int) -> int:
    """Write out what is left, here and not at the interpreter's end, where a closed pipe would be complained about."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _explain(error: Exception, message: str, invocation: Invocation) -> None:
    if invocation.debug:
        message = "".join(traceback.format_exception(error)).rstrip("\n")
    sys.stderr.write(hide_known(message) + "\n")


def _build(arguments: Sequence[str], invocation: Invocation) -> typer.Typer:
    """The whole command line, of which only the commands that `arguments` name are imported."""
    # Plain help: rich's would cost its import on every run of `--help`.
    app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.callback(help="Long-term, downsampled, SQL-queryable metrics in plain PostgreSQL.")(_global_options(invocation))
    words = _words(arguments)
    for command in COMMANDS:
        _add(app, command, is_wanted=command.name in words)
    return app


def _words(arguments: Sequence[str]) -> set[str]:
    completed = " ".join(os.environ.get(variable, "") for variable in _COMPLETION_VARIABLES)
    return {*arguments, *completed.split()}


def _add(app: typer.Typer, command: Command, *, is_wanted: bool) -> None:
    if not is_wanted:
        app.command(command.name, help=command.help)(_not_imported)
        return
    attribute = getattr(import_module(command.module), command.attribute)
    if command.is_group:
        app.add_typer(cast("typer.Typer", attribute), name=command.name, help=command.help)
    else:
        app.command(command.name, help=command.help)(cast("Callable[..., Any]", attribute))


def _not_imported() -> None:
    """Stand for a command in the list of `--help`; what is run has been imported."""


def _show_version(value: bool) -> None:  # noqa: FBT001 - typer calls it so
    if value:
        typer.echo(f"{PROGRAM} {aggregator.__version__}")
        raise typer.Exit


_Config = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="The configuration file, and no other.")]
_Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")]
_Version = Annotated[
    bool, typer.Option("--version", help="Show the version of this program.", callback=_show_version, is_eager=True)
]


def _global_options(invocation: Invocation) -> Callable[..., None]:
    def options(
        context: typer.Context,
        config: _Config = None,
        debug: _Debug = False,  # noqa: FBT002 - typer's way to declare a flag
        _version: _Version = False,  # noqa: FBT002 - as above
    ) -> None:
        invocation.config, invocation.debug = config, debug
        context.obj = invocation

    return options
