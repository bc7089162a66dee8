"""`aggregator collect`: one collection of a source, now, in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from aggregator.cli.invocation import settings_of
from aggregator.errors import CollectionFailedError
from aggregator.printable import on_one_line

if TYPE_CHECKING:
    from aggregator.tasks.context import Context


def collect(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="The source's name.")],
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the samples and write nothing.")] = False,
) -> None:
    """Collect a source once; a source that reads machines is read on this one."""
    from aggregator.tasks import by_hand  # noqa: PLC0415 - SQLAlchemy is loaded only where it is used
    from aggregator.tasks.context import Context  # noqa: PLC0415 - as above

    here = Context(settings_of(context))
    if dry_run:
        _print_samples(here, source)
        return
    by_hand.be_known(here)
    reports = by_hand.collect_by_hand(here, source)
    if not reports:
        raise CollectionFailedError(f'source "{source}" has no target that this node may collect')
    for report in reports:
        state = f"{report['samples']} samples" if report["up"] else f"failed: {report['error']}"
        typer.echo(f"{report['instance']}: {state} in {report['duration_seconds']:.3f} s")
        if report["output"]:
            typer.echo("\n".join(on_one_line(line) for line in report["output"].rstrip("\n").split("\n")))


def _print_samples(here: Context, source: str) -> None:
    from aggregator.collectors.discovery import without_user  # noqa: PLC0415 - as above
    from aggregator.tasks.by_hand import samples_now  # noqa: PLC0415 - as above

    failed = False
    for collected in samples_now(here, source):
        failed |= collected.error is not None
        if collected.error is not None:
            typer.echo(f"# {without_user(collected.target.address)}: {collected.error}", err=True)
        for batch in collected.batches:
            for key, value in zip(batch.keys, batch.values.tolist(), strict=True):
                if value == value:  # noqa: PLR0124 - NaN means no sample
                    labels = ",".join(f'{name}="{text}"' for name, text in key.labels)
                    typer.echo(on_one_line(f"{key.metric}{{{labels}}} {value!r} {batch.at.isoformat()}"))
    if failed:
        raise CollectionFailedError(f'source "{source}" failed on a target; nothing was written')
