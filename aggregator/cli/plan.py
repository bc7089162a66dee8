"""`aggregator plan`: what a changed configuration will create, recompute and drop in this database, and its cost."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aggregator.cli.invocation import settings_of
from aggregator.config.servers import require_database_url

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aggregator.cli.costs import Costing
    from aggregator.config.model import Settings
    from aggregator.storage.plan import Plan
    from aggregator.storage.plan_changes import Change, Drop

_SIGNS = {"added": "+", "changed": "~", "removed": "-"}
#: The ends of each block and tier are looked up, of a large installation too.
_PATIENCE = timedelta(seconds=60)


def plan(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,  # noqa: FBT002 - a flag
) -> None:
    """Show what publishing this configuration would create, recompute and drop here, and its cost; writes nothing."""
    settings = settings_of(context)
    url = require_database_url(settings)
    from aggregator.cli.costs import costing  # noqa: PLC0415 - SQLAlchemy is loaded only where it is used

    found = _read(url, settings, now=datetime.now(UTC))
    costs = costing(settings, found.measured)
    if as_json:
        typer.echo(json.dumps(_document(found, costs), indent=2, ensure_ascii=False))
    else:
        typer.echo("\n".join(_report(settings, found, costs)))


def _read(url: str, settings: Settings, *, now: datetime) -> Plan:
    from aggregator.storage.plan import make_plan  # noqa: PLC0415 - as above
    from aggregator.storage.reading import Reader  # noqa: PLC0415 - as above

    reader = Reader.connect(url, application="aggregator plan", statement_timeout=_PATIENCE)
    try:
        return reader.of_one_instant().run(lambda connection: make_plan(connection, settings, now=now))
    finally:
        reader.dispose()


def _report(settings: Settings, found: Plan, costs: Costing) -> Iterator[str]:
    from aggregator.cli.check import bytes_lines  # noqa: PLC0415 - as above
    from aggregator.cli.costs import cost_table, source_table, summary_line  # noqa: PLC0415 - as above

    yield _head(settings, found)
    yield ""
    yield from _changes(found)
    yield from _drops(found)
    yield ""
    yield from source_table(costs)
    yield ""
    yield from cost_table(costs)
    yield ""
    yield summary_line(costs)
    yield from bytes_lines(costs)


def _head(settings: Settings, found: Plan) -> str:
    which = str(settings.file) if settings.file else "the defaults"
    if found.published_by is None:
        return f"Nothing is published in this database yet: {which} would be."
    if found.is_to_publish:
        return f"{which} would replace what node {found.published_by} has published:"
    if any(found.changes):
        return f"{which} would not be published: this node has no file, and node {found.published_by} has published."
    return f"{which} is what node {found.published_by} has published."


def _changes(found: Plan) -> Iterator[str]:
    for change in found.changes:
        yield f"{_SIGNS[change.action]} {change.what} {change.name}: {change.effect}{_details(change)}"
    if not found.changes:
        yield "No setting, source, tier, rule or summary changes."
    if found.partitions_made:
        yield f"+ {found.partitions_made:,} empty partitions"


def _details(change: Change) -> str:
    from aggregator.cli.costs import size  # noqa: PLC0415 - as above

    stays = f" ({size(change.size_bytes)})" if change.size_bytes is not None else ""
    return (f", since {_instant(change.since)}" if change.since else "") + stays


def _drops(found: Plan) -> Iterator[str]:
    """What goes, by layer: one line for all of its partitions, and one for each that stays."""
    from aggregator.cli.costs import size  # noqa: PLC0415 - as above

    by_layer: dict[str, list[Drop]] = {}
    for drop in found.drops:
        if drop.held is None:
            by_layer.setdefault(drop.layer, []).append(drop)
    for layer, drops in by_layer.items():
        reach = f"from {_instant(drops[0].start)} to {_instant(drops[-1].end)}"
        total = size(sum(drop.size_bytes for drop in drops))
        yield f"- {len(drops):,} partitions of {layer}, {reach}, {total}: dropped by the next `maintain`"
    for drop in found.drops:
        if drop.held is not None:
            yield f"  {drop.partition} ({size(drop.size_bytes)}) is past its retention and stays: {drop.held}"


def _instant(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat(timespec="minutes").replace("+00:00", "Z")


def _document(found: Plan, costs: Costing) -> dict[str, Any]:
    return {
        "published_by": found.published_by,
        "would_be_published": found.is_to_publish,
        "changes": [
            {
                "what": change.what,
                "name": change.name,
                "action": change.action,
                "effect": change.effect,
                "buckets": change.buckets,
                "since": change.since and _instant(change.since),
                "bytes": change.size_bytes,
            }
            for change in found.changes
        ],
        "partitions_made": found.partitions_made,
        "drops": [
            {
                "layer": drop.layer,
                "partition": drop.partition,
                "start": _instant(drop.start),
                "end": _instant(drop.end),
                "bytes": drop.size_bytes,
                "held": drop.held,
            }
            for drop in found.drops
        ],
        "cost": costs.document(),
    }
