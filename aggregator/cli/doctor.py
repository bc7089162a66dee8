"""`aggregator doctor`: what is wrong with servers, rights, clock, configuration or this machine, and the remedy."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from aggregator.cli.invocation import settings_of
from aggregator.errors import ServerUnreachableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aggregator.serving.doctor import Finding

_MARKS = {
    "ok": ("[green]ok[/green]", "fine"),
    "warning": ("[yellow]warning[/yellow]", "to be looked at"),
    "wrong": ("[red]wrong[/red]", "wrong"),
    "unreachable": ("[red]unreachable[/red]", "unreachable"),
    "unknown": ("[yellow]unknown[/yellow]", "unknown"),
}


def doctor(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,  # noqa: FBT002 - a flag
) -> None:
    """Look at servers, versions, rights, clock, settings, configuration and disk; a remedy for each fault.

    Exit 1 where something is wrong, 3 where a server cannot be reached; warnings alone are no fault.
    """
    settings = settings_of(context)
    from aggregator.serving.doctor import Doctor  # noqa: PLC0415 - after --help

    findings = list(Doctor(settings).examine())
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False))
    else:
        _print(findings)
    raise typer.Exit(_exit_code(findings))


def _exit_code(findings: Sequence[Finding]) -> int:
    verdicts = {finding.verdict for finding in findings}
    if "unreachable" in verdicts:
        return ServerUnreachableError.exit_code
    return 1 if "wrong" in verdicts else 0


def _print(findings: Sequence[Finding]) -> None:
    """A line for each finding and one for its remedy: to be read, searched and copied, so no table that wraps."""
    from rich.console import Console  # noqa: PLC0415 - only a terminal needs it
    from rich.markup import escape  # noqa: PLC0415 - as above

    console = Console(soft_wrap=True, highlight=False)
    width = max(len(finding.about) for finding in findings)
    for finding in findings:
        padding = " " * (len("unreachable") - len(finding.verdict))
        console.print(f"{_MARKS[finding.verdict][0]}{padding}  {finding.about:{width}}  {escape(finding.says)}")
        if finding.remedy is not None:
            console.print(f"{'':{len('unreachable')}}  {'':{width}}  → {escape(finding.remedy)}")
    console.print(_conclusion(findings))


def _conclusion(findings: Sequence[Finding]) -> str:
    counted = [
        f"{count} {name}"
        for verdict, (_, name) in _MARKS.items()
        if verdict != "ok" and (count := sum(finding.verdict == verdict for finding in findings))
    ]
    return ", ".join(counted) or "All is well."
