"""The tasks: their names and arguments. A task takes names, never a command, a query or a URL."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from aggregator.tasks.app import app


def _work() -> Any:  # noqa: ANN401 - a module
    """What the tasks do, with all that it needs: beat and clients send messages without loading it."""
    return import_module("aggregator.tasks.work")


@app.task(name="aggregator.wake")
def wake(source: str, slot: str) -> int:
    """Wake a source: one message for each of its shards; gives their number."""
    return int(_work().wake(collect, source, slot))


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
    work = _work()
    if shard is not None:
        return work.collect_shard(source, shard, slot)  # type: ignore[no-any-return] # loaded late
    elsewhere = work.other_node(source, node)
    if elsewhere is not None:
        # Without a reply_to of its own the message would have this process' one, and with rpc:// the result be lost.
        there = {"queue": work.node_queue(elsewhere), "reply_to": self.request.reply_to}
        # It raises: the other node's result becomes ours.
        self.replace(self.signature((source,), {"node": elsewhere}, **there))
    return work.collect_all(source)  # type: ignore[no-any-return] # loaded late


@app.task(name="aggregator.rollup")
def rollup(slot: str | None = None) -> int:
    """Roll up what is due; gives the rows written."""
    return int(_work().rollup(slot))


@app.task(name="aggregator.summarize")
def summarize(slot: str | None = None, name: str | None = None) -> int | None:
    """Wake the summaries that are due, by a message each; or refresh the one named, or without a slot all, now.

    Gives how many were woken, or refreshed; None where the slot of the one named was not refreshed by this run.
    """
    return _work().summarize(summarize, slot, name)  # type: ignore[no-any-return] # loaded late


@app.task(name="aggregator.maintain")
def maintain(slot: str | None = None) -> int | None:
    """Make partitions and drop what has passed its retention; gives how many came or went.

    None where another worker has the slot.
    """
    return _work().maintain(slot)  # type: ignore[no-any-return] # loaded late


@app.task(name="aggregator.verify")
def verify(slot: str | None = None) -> int | None:
    """Recompute some buckets and compare; gives how many values differ, None where another worker has the slot."""
    return _work().verify(slot)  # type: ignore[no-any-return] # loaded late


@app.task(name="aggregator.announce")
def announce(started_at: str) -> None:
    """Say that this node lives; at its first time publish the configuration of its file."""
    _work().announce(started_at)


@app.task(name="aggregator.report_lost")
def report_lost(task: str, subject: str, reason: str, at: str, *, counted: bool) -> None:
    """Count that a child of this node was lost while it ran a task; the worker's parent says so."""
    _work().report_lost(task, subject, reason, at, is_counted=counted)
