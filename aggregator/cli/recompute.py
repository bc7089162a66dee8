"""`aggregator recompute`: roll up again from what is kept."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from aggregator.cli.invocation import settings_of
from aggregator.cli.times import EXAMPLES, parse_instant
from aggregator.config.selector import EXAMPLE, Selector, parse_selector
from aggregator.errors import SelectorError, UsageError

if TYPE_CHECKING:
    from aggregator.storage.engine import Database
    from aggregator.storage.recompute import Request
    from aggregator.tasks.recomputation import Done, Progress

EXIT_NOTHING_FOUND = 1
#: Without a terminal a line is printed for each further part of so much.
_LINE_FRACTION = 0.1


def recompute(
    context: typer.Context,
    selector: Annotated[str, typer.Argument(metavar="SELECTOR", help=f"Prometheus' own, such as {EXAMPLE}.")],
    start: Annotated[str, typer.Option("--from", metavar="TIME", help=f"From when on: {EXAMPLES}.")],
    finish: Annotated[str, typer.Option("--to", metavar="TIME", help="Up to and without when.")] = "now",
    again: Annotated[bool, typer.Option("--again", help="Start over, also where it is done or half done.")] = False,  # noqa: FBT002 - a flag
) -> None:
    """Roll up again from what is kept, newest first; typed again, it goes on where it stopped."""
    from aggregator.storage.query import explain_nothing  # noqa: PLC0415 - after --help
    from aggregator.storage.recompute import scope_of  # noqa: PLC0415 - as above
    from aggregator.tasks.context import Context, now  # noqa: PLC0415 - as above
    from aggregator.tasks.recomputation import Recomputation  # noqa: PLC0415 - as above

    wanted = _selector(selector)
    asked = partial(_interval, start, finish)
    asked(now())  # what cannot be read is said before a server is asked
    here = Context(settings_of(context))
    scope = here.database.run(partial(scope_of, selector=wanted))
    if not scope.shard_ids:
        hint = here.database.run(lambda connection: explain_nothing(connection, wanted))
        sys.stderr.write(f"nothing to recompute: {hint}\n")
        raise typer.Exit(EXIT_NOTHING_FOUND)
    request = _request(here.database, str(wanted), asked, again=again, now=now())
    if request.finished_at is not None:
        typer.echo(f"done already at {_instant(request.finished_at)}; --again starts over")
        return
    try:
        with _reporting() as report:
            done = Recomputation(here.database, here.rollup, now).run(request, scope, report=report)
    except KeyboardInterrupt:
        sys.stderr.write(
            "\nstopped; workers roll up what is marked, and the same command goes on where this one stopped\n"
        )
        raise
    _print(done)


def _selector(text: str) -> Selector:
    try:
        return parse_selector(text)
    except ValueError as error:
        raise SelectorError(str(error)) from None


def _interval(start: str, finish: str, now: datetime) -> tuple[datetime, datetime]:
    since, until = parse_instant(start, now=now), min(parse_instant(finish, now=now), now)
    if since >= until:
        raise UsageError(f"--from {start} is not before --to {finish}, or lies in the future")
    return since, until


def _request(
    database: Database,
    selector: str,
    asked: Callable[[datetime], tuple[datetime, datetime]],
    *,
    again: bool,
    now: datetime,
) -> Request:
    """The request that goes on, or a new one."""
    from aggregator.storage import recompute as stored  # noqa: PLC0415 - after --help
    from aggregator.tasks.recomputation import find_request  # noqa: PLC0415 - as above

    requests = database.run(lambda connection: stored.requests_of(connection, selector))
    found = None if again else find_request(requests, asked, now=now)
    if found is not None:
        if found.finished_at is None:
            typer.echo(f"goes on: buckets from {_instant(found.marked_down_to)} on are marked already")
        return found
    since, until = asked(now)
    return database.run(lambda connection: stored.begin(connection, selector, since=since, until=until, now=now))


@contextmanager
def _reporting() -> Iterator[Callable[[Progress], None]]:
    """A bar on a terminal, a line for each tenth elsewhere."""
    from rich.console import Console  # noqa: PLC0415 - after --help
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415 - as above
    from rich.progress import Progress as Bar  # noqa: PLC0415 - as above

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(_LINE_FRACTION).report
        return
    columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Bar(*columns, console=console) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda progress: bar.update(task, completed=progress.fraction, description=_described(progress))


class _Lines:
    """Progress where there is no terminal."""

    def __init__(self, fraction: float) -> None:
        self._every = fraction
        self._next = fraction

    def report(self, progress: Progress) -> None:
        """Write a line where a further part is done."""
        if progress.fraction >= self._next:
            self._next = progress.fraction + self._every
            sys.stderr.write(f"{progress.fraction:.0%}: {_described(progress)}\n")


def _described(progress: Progress) -> str:
    return f"marked down to {_instant(progress.request.marked_down_to)}, {progress.waiting:,} marks wait"


def _print(done: Done) -> None:
    typer.echo(f"{done.request.buckets_marked:,} buckets marked, {done.rows_changed:,} rollup rows changed")
    for tier in done.completed:
        typer.echo(f"{tier}: was added later, and has from now on all its buckets that could be made")
    for tier, kept in done.request.kept.items():
        span = f"from {_instant(kept.oldest)} to {_instant(kept.newest)}"
        typer.echo(f"{tier}: {kept.count:,} buckets {span} stay as they are: what they were made from is gone")


def _instant(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
