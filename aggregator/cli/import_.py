"""`aggregator import`: historical samples from a file, of any age and size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from aggregator.cli.invocation import settings_of
from aggregator.errors import UsageError

if TYPE_CHECKING:
    from datetime import timedelta

    from aggregator.tasks.importing import Report

_FORMATS = ("openmetrics", "csv")


def import_file(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="The file, or - for standard input; .gz is unpacked.")],
    *,
    source: Annotated[
        str | None, typer.Option(metavar="NAME", help="The source of all samples; default: their label job.")
    ] = None,
    form: Annotated[
        str | None, typer.Option("--format", metavar="FORMAT", help="openmetrics or csv; default by the file's name.")
    ] = None,
    keep_going: Annotated[bool, typer.Option("--keep-going", help="Skip damaged lines and count them.")] = False,
    interval: Annotated[
        str | None,
        typer.Option(metavar="15s", help="The interval of a source that does not exist yet; default: as in the file."),
    ] = None,
) -> None:
    """Read samples with their timestamps, store them and roll them up; what was interrupted goes on where it ended."""
    from aggregator.cli.import_progress import make_screen  # noqa: PLC0415 - after --help
    from aggregator.stages.collect.spool_file import FileFormat, HistoryFile  # noqa: PLC0415 - as above
    from aggregator.tasks.context import Context  # noqa: PLC0415 - as above
    from aggregator.tasks.importing import Import, Order  # noqa: PLC0415 - as above

    if form is not None and form not in _FORMATS:
        raise UsageError(f"--format {form} is not known; there are {', '.join(_FORMATS)}")
    if source == "":
        raise UsageError("--source has no name; leave it out, and the label job names the source")
    history = HistoryFile.of(file, FileFormat(form) if form is not None else None)
    order = Order(history, source, _interval(interval), is_lenient=keep_going)
    with make_screen(history) as screen:
        report = Import(Context(settings_of(context)), order, screen).run()
    typer.echo(_summary(report))
    raise typer.Exit(0 if report.is_whole else 1)


def _interval(text: str | None) -> timedelta | None:
    from aggregator.config.duration import parse_duration  # noqa: PLC0415 - not needed for --help

    if text is None:
        return None
    try:
        interval = parse_duration(text)
    except ValueError as error:
        raise UsageError(f"--interval: {error}") from None
    if not interval:
        raise UsageError("--interval is 0; write how far apart the samples of a series are, such as 15s")
    return interval


def _summary(report: Report) -> str:
    rate = report.read / report.seconds if report.seconds else 0
    became = (
        f"{report.read:,} samples read: {report.stored:,} stored, {report.unchanged:,} already there,"
        f" {report.replaced:,} replaced, {sum(report.refused.values()):,} refused"
    )
    lines = [
        became,
        *(f"refused {count:,}: {reason}" for reason, count in sorted(report.refused.items())),
        *(f"skipped {count:,} lines: {reason}" for reason, count in sorted(report.skipped.items())),
        *([f"left out {report.nans:,} values NaN: no sample"] if report.nans else []),
        f"{report.seconds:,.1f} s, {rate:,.0f} samples/s",
    ]
    return "\n".join(lines)
