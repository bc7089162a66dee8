"""The tasks: thin, each a few lines round a stage. A task takes names, never a command, a query or a URL."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import structlog

from aggregator import telemetry
from aggregator.config.model import CommandSource, HostSource
from aggregator.errors import UnknownSourceError, UsageError
from aggregator.rollups.buckets import floor_to
from aggregator.stages import maintain as maintain_stage
from aggregator.storage import announce as announcing
from aggregator.tasks.app import app
from aggregator.tasks.by_hand import collect_by_hand
from aggregator.tasks.context import Context, context
from aggregator.tasks.schedule import MOST_WAKE_INTERVAL, ROLLUP_INTERVAL

log = structlog.get_logger(__name__)

#: A rollup goes on for so long at most; what is left is taken up at the next wake.
ROLLUP_BUDGET = timedelta(seconds=10)


def _instant(slot: str) -> datetime:
    """A message's slot; raises UsageError where it is none, for a message may come from anywhere."""
    try:
        instant = datetime.fromisoformat(slot)
    except ValueError:
        raise UsageError(f"{slot!r} is no slot; write an instant such as 2026-01-31T12:00:00+00:00") from None
    if instant.tzinfo is None:
        raise UsageError(f"{slot!r} has no time zone; write an instant such as 2026-01-31T12:00:00+00:00")
    return instant


def node_queue(node: str) -> str:
    """The queue that only this node reads."""
    return f"{context().settings.namespace}.node.{node}"


@app.task(name="aggregator.wake")
def wake(source: str, slot: str) -> int:
    """Wake a source: one message for each of its shards; gives their number."""
    here = context()
    instant = _instant(slot)
    source_id, configured = here.source(source)
    shards = here.wake.shards(source_id, configured, slot=instant, now=here.clock())
    options: dict[str, Any] = {"expires": configured.interval.total_seconds(), "ignore_result": True}
    for shard in shards:
        queue = {"queue": node_queue(shard.node)} if shard.node is not None else {}
        collect.apply_async((source,), {"shard": shard.id, "slot": slot}, **options, **queue)
    return len(shards)


@app.task(name="aggregator.collect", bind=True)
def collect(
    self: Any,  # noqa: ANN401 - Celery's task is untyped
    source: str,
    shard: int | None = None,
    slot: str | None = None,
    node: str | None = None,
) -> list[dict[str, Any]] | None:
    """Collect a source: one shard's slot when beat asked for it, or all of it, now, when somebody else did.

    By hand the result is a list with a report for each target, and CollectionFailedError is raised where all failed.
    A source that reads a machine is collected on `node` (default: this one, where it is among the source's nodes).
    """
    here = context()
    source_id, configured = here.source(source)
    if shard is not None:
        instant = _instant(slot) if slot is not None else None
        reports = here.collect.run(source_id, configured, shard, slot=instant, clock=here.clock)
        return None if reports is None else [report.as_json() for report in reports]
    if isinstance(configured, HostSource | CommandSource) and node != here.settings.node:
        chosen = _chosen_node(here, source_id, configured, node)
        if chosen != here.settings.node:
            message = self.signature((source,), {"node": chosen}, queue=node_queue(chosen))
            return self.replace(message)  # type: ignore[no-any-return] # it raises: the other node's result is ours
    return collect_by_hand(here, source)


def _chosen_node(here: Context, source_id: int, source: HostSource | CommandSource, node: str | None) -> str:
    shards = here.wake.shards(source_id, source, slot=None, now=here.clock())
    nodes = [shard.node for shard in shards if shard.node is not None]
    if node is not None and node not in nodes:
        raise UnknownSourceError(
            f'source "{source.name}" does not run on node "{node}"; it runs on: {", ".join(nodes) or "no live node"}'
        )
    if not nodes:
        raise UnknownSourceError(f'source "{source.name}" runs on no live node; start a worker on one that it names')
    preferred = node or here.settings.node
    return preferred if preferred in nodes else nodes[0]


@app.task(name="aggregator.rollup")
def rollup(slot: str | None = None) -> int:
    """Roll up what is due; gives the rows written."""
    here = context()
    _woken(here, "rollup", slot, ROLLUP_INTERVAL)
    return here.rollup.run(here.clock, budget=ROLLUP_BUDGET)


@app.task(name="aggregator.summarize")
def summarize(slot: str | None = None, name: str | None = None) -> int:
    """Refresh the summaries whose slot has come (without a slot: all, or the one named); gives their number."""
    here = context()
    _woken(here, "summarize", slot, MOST_WAKE_INTERVAL)
    return here.summarize.run(clock=here.clock, only=name, by_slots=slot is not None)


@app.task(name="aggregator.maintain")
def maintain(slot: str | None = None) -> int:
    """Make partitions and drop what has passed its retention; gives how many came or went."""
    here = context()
    _woken(here, "maintain", slot, MOST_WAKE_INTERVAL)
    claimed = floor_to(here.clock(), maintain_stage.INTERVAL) if slot is not None else None
    done = here.maintain.run(clock=here.clock, slot=claimed)
    return done.changes if done is not None else 0


@app.task(name="aggregator.announce")
def announce(started_at: str) -> None:
    """Say that this node lives; at its first time publish the configuration of its file."""
    here = context()
    announcing.announce(
        here.database, here.settings, config_hash=here.config_hash, started_at=_instant(started_at), now=here.clock()
    )
    telemetry.put("config_info", 1, hash=here.config_hash)


def _woken(here: Context, job: str, slot: str | None, interval: timedelta) -> None:
    if slot is not None:
        instant = _instant(slot)
        announcing.record_wake(here.database, job, slot=instant, interval=interval, now=here.clock())
