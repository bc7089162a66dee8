"""`aggregator explain`: why a number is what it is."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aggregator.cli.invocation import settings_of
from aggregator.cli.times import EXAMPLES, parse_instant
from aggregator.config.selector import EXAMPLE, Selector, parse_selector
from aggregator.config.servers import require_database_url
from aggregator.errors import SelectorError, UsageError

if TYPE_CHECKING:
    from aggregator.serving.explanation import Explanation
    from aggregator.storage.catalog import Installation, TierEntry

#: What one person can read; a selector that matches more is too wide.
MOST_SERIES = 10
STATEMENT_TIMEOUT = timedelta(seconds=60)
EXIT_CONTRADICTED = 1
EXIT_NOTHING_FOUND = 1


def explain(
    context: typer.Context,
    selector: Annotated[str, typer.Argument(metavar="SELECTOR", help=f"Prometheus' own, such as {EXAMPLE}.")],
    at: Annotated[str, typer.Option("--at", metavar="TIME", help=f"An instant in the bucket: {EXAMPLES}.")],
    tier: Annotated[str, typer.Option(help="The tier of the bucket.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print it all as JSON.")] = False,  # noqa: FBT002 - a flag
) -> None:
    """Show the samples, resets, late arrivals and runs that made a number; exit 1 where these contradict it."""
    from aggregator.storage.reading import Reader  # noqa: PLC0415 - after --help

    now = datetime.now(UTC)
    instant, wanted = parse_instant(at, now=now), _selector(selector)
    url = require_database_url(settings_of(context))
    reader = Reader.connect(url, application="aggregator explain", statement_timeout=STATEMENT_TIMEOUT)
    try:
        found, hint = reader.of_one_instant().run(
            lambda connection: _read(connection, wanted, tier, at=instant, now=now)
        )
    finally:
        reader.dispose()
    _print(found, as_json=as_json)
    if hint:
        sys.stderr.write(hint + "\n")
    if not found:
        raise typer.Exit(EXIT_NOTHING_FOUND)
    raise typer.Exit(EXIT_CONTRADICTED if any(one.is_contradicted for one in found) else 0)


def _selector(text: str) -> Selector:
    try:
        return parse_selector(text)
    except ValueError as error:
        raise SelectorError(str(error)) from None


def _read(
    connection: Any,  # noqa: ANN401 - SQLAlchemy stays in storage
    selector: Selector,
    tier_name: str,
    *,
    at: datetime,
    now: datetime,
) -> tuple[list[Explanation], str | None]:
    """The explanations of the series that match, and what else there is to say."""
    from aggregator.serving.explanation import explain as follow  # noqa: PLC0415 - after --help
    from aggregator.storage.catalog import read_installation  # noqa: PLC0415 - as above
    from aggregator.storage.explain import find_series  # noqa: PLC0415 - as above
    from aggregator.storage.explain_facts import gather  # noqa: PLC0415 - as above
    from aggregator.storage.query import explain_nothing  # noqa: PLC0415 - as above

    tier = _tier(read_installation(connection), tier_name)
    series = find_series(connection, selector, limit=MOST_SERIES + 1)
    found = [follow(gather(connection, one, tier=tier, at=at, now=now)) for one in series[:MOST_SERIES]]
    if not series:
        return [], f"nothing found: {explain_nothing(connection, selector)}"
    if len(series) > MOST_SERIES:
        return found, f"more than {MOST_SERIES} series match; these are the first: write a narrower selector"
    return found, None


def _tier(installation: Installation, name: str) -> TierEntry:
    tier = next((tier for tier in installation.tiers if tier.name == name), None)
    if tier is None:
        names = ", ".join(tier.name for tier in installation.tiers)
        raise UsageError(f"no tier is called {name}; write --tier with one of {names}")
    return tier


def _print(found: list[Explanation], *, as_json: bool) -> None:
    if as_json:
        from aggregator.serving.explanation_document import document  # noqa: PLC0415 - as above

        typer.echo(json.dumps([document(one) for one in found], indent=2, ensure_ascii=False))
    elif found:
        from aggregator.cli.explain_tables import print_explanation  # noqa: PLC0415 - only a person needs rich

        for one in found:
            print_explanation(one)
