"""What the tasks do: a few lines round a stage each. Loaded at first use: beat needs only the tasks' names."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from typing import Any

from aggregator import telemetry
from aggregator.config.source_model import CommandSource, HostSource
from aggregator.errors import UnknownSourceError, UsageError
from aggregator.rollups.buckets import floor_to
from aggregator.stages import maintain as maintain_stage
from aggregator.storage import announce as announcing
from aggregator.storage import quarantine, summaries
from aggregator.storage.quarantine import Job
from aggregator.tasks import guard
from aggregator.tasks.by_hand import collect_by_hand
from aggregator.tasks.context import Context, context
from aggregator.tasks.guard import ShardWatch
from aggregator.tasks.schedule import MOST_WAKE_INTERVAL, ROLLUP_INTERVAL, VERIFY_INTERVAL

#: A rollup goes on for so long at most; what is left is taken up at the next wake.
ROLLUP_BUDGET = timedelta(seconds=10)
#: Below a task's soft limit (240 s): what was not looked at today may be picked tomorrow.
VERIFY_BUDGET = timedelta(seconds=150)


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


def wake(collect_task: Any, source: str, slot: str) -> int:  # noqa: ANN401 - Celery's task is untyped
    """Send one message for each shard of a source; gives their number."""
    here = context()
    source_id, configured = here.source(source)
    instant = here.due_slot(_instant(slot))
    refused = _refused(here, "collect")
    shards = [
        shard
        for shard in here.wake.shards(source_id, configured, slot=instant, now=here.clock())
        if f"{source}:{shard.id}" not in refused
    ]
    # A longer slot is sent again every minute.
    expires = min(configured.interval, MOST_WAKE_INTERVAL).total_seconds()
    options: dict[str, Any] = {"expires": expires, "ignore_result": True}
    for shard in shards:
        queue = {"queue": node_queue(shard.node)} if shard.node is not None else {}
        collect_task.apply_async((source,), {"shard": shard.id, "slot": slot}, **options, **queue)
    return len(shards)


def collect_shard(source: str, shard: int, slot: str | None) -> list[dict[str, Any]] | None:
    """Collect one shard's slot; None where another worker has it or had it."""
    here = context()
    source_id, configured = here.source(source)
    here.require_right_clock()
    instant = here.due_slot(_instant(slot)) if slot is not None else None
    reports = here.collect.run(source_id, configured, shard, slot=instant, clock=here.steady_clock())
    return None if reports is None else [report.as_json() for report in reports]


def other_node(source: str, node: str | None) -> str | None:
    """The node that has to collect a source that reads a machine; None where this one does.

    Raises UnknownSourceError where no live node may.
    """
    here = context()
    source_id, configured = here.source(source)
    if not isinstance(configured, HostSource | CommandSource):
        return None
    shards = here.wake.shards(source_id, configured, slot=None, now=here.clock())
    nodes = [shard.node for shard in shards if shard.node is not None]
    if not nodes:
        raise UnknownSourceError(f'source "{source}" runs on no live node; start a worker on one that it names')
    if node is not None and node not in nodes:
        raise UnknownSourceError(f'source "{source}" does not run on node "{node}"; it runs on: {", ".join(nodes)}')
    preferred = node or here.settings.node
    chosen = preferred if preferred in nodes else nodes[0]
    return chosen if chosen != here.settings.node else None


def collect_all(source: str) -> list[dict[str, Any]]:
    """Collect a source by hand, in this process."""
    return collect_by_hand(context(), source)


def rollup(slot: str | None) -> int:
    """Roll up what is due; gives the rows written."""
    here = context()
    _woken(here, "rollup", slot, ROLLUP_INTERVAL)
    watch = ShardWatch.of(here.database, here.clock)
    try:
        return here.rollup.run(here.clock, budget=ROLLUP_BUDGET, watch=watch)
    finally:
        watch.finish()


def summarize(task: Any, slot: str | None, name: str | None) -> int | None:  # noqa: ANN401 - Celery's task is untyped
    """Send one message for each summary that is due, or refresh one slot of one, or all by hand; gives how many.

    None where the slot of the one was not refreshed here.
    """
    here = context()
    if slot is None:
        return here.summarize.run(clock=here.clock, only=name)
    if name is not None:
        instant = here.due_slot(_instant(slot))
        return 1 if here.summarize.refresh(name, slot=instant, clock=here.clock) else None
    refresh = here.database.run(summaries.shortest_refresh)
    _woken(here, "summarize", slot, min(refresh or MOST_WAKE_INTERVAL, MOST_WAKE_INTERVAL))
    refused = _refused(here, "summarize")
    due = [one for one in here.summarize.wake(clock=here.clock) if one.name not in refused]
    for one in due:
        # One for each: a query that takes long holds up no other summary.
        expires = min(one.expires, MOST_WAKE_INTERVAL).total_seconds()
        task.apply_async((), {"slot": one.slot.isoformat(), "name": one.name}, expires=expires, ignore_result=True)
    return len(due)


def maintain(slot: str | None) -> int | None:
    """Make and drop partitions; gives how many, None where another worker has the slot."""
    here = context()
    _woken(here, "maintain", slot, MOST_WAKE_INTERVAL)
    claimed = floor_to(here.clock(), maintain_stage.INTERVAL) if slot is not None else None
    done = here.maintain.run(clock=here.clock, slot=claimed)
    return done.changes if done is not None else None


def verify(slot: str | None) -> int | None:
    """Recompute some buckets and compare; gives how many values differ, None where another worker has the slot."""
    here = context()
    _woken(here, "verify", slot, VERIFY_INTERVAL)
    claimed = _instant(slot) if slot is not None else here.clock()
    report = here.verify.run(clock=here.clock, slot=claimed, budget=VERIFY_BUDGET)
    return report.total if report is not None else None


def announce(started_at: str) -> None:
    """Say that this node lives; one whose clock is wrong does not, for all go by its word."""
    here = context()
    here.require_right_clock()
    announcing.announce(
        here.database, here.settings, config_hash=here.config_hash, started_at=_instant(started_at), now=here.clock()
    )
    telemetry.put("config_info", 1, hash=here.config_hash)


def report_lost(task: str, subject: str, reason: str, at: str, *, is_counted: bool) -> None:
    """Count that a child of this node was lost."""
    job = Job(task, subject) if is_counted else None
    guard.report(job, task=task, reason=reason, at=_instant(at))


def _refused(here: Context, task: str) -> frozenset[str]:
    """The subjects of a task that are set aside now: no message is sent for them."""
    found = here.database.run(partial(quarantine.all_losses, task=task))
    now = here.clock()
    return frozenset(one.job.subject for one in found if one.is_refused(now=now))


def _woken(here: Context, job: str, slot: str | None, interval: timedelta) -> None:
    if slot is not None:
        instant = here.due_slot(_instant(slot))
        announcing.record_wake(here.database, job, slot=instant, interval=interval, now=here.clock())
