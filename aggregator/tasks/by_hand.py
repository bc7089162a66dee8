"""Collections that somebody asks for: now, in this process, stored at their own time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from aggregator.collectors import selftest
from aggregator.collectors.discovery import Discoverer
from aggregator.collectors.protocol import Collected, Target
from aggregator.config.source_model import PrometheusSource, SelftestSource
from aggregator.errors import CollectionFailedError
from aggregator.stages.collect.wake import NODE_GONE
from aggregator.storage import registry
from aggregator.storage.announce import announce
from aggregator.tasks.context import Context


def collect_by_hand(here: Context, source: str) -> list[dict[str, Any]]:
    """Collect a source's shards now, in this process; those of another node are left to that node's own slots."""
    source_id, configured = here.source(source)
    here.require_right_clock()
    shards = here.wake.shards(source_id, configured, slot=None, now=here.clock())
    reports = [
        report
        for shard in shards
        if shard.node in (None, here.settings.node)
        for report in here.collect.run(source_id, configured, shard.id, slot=None, clock=here.steady_clock()) or ()
    ]
    if reports and not any(report.up for report in reports):
        raise CollectionFailedError(f"{reports[0].instance}: {reports[0].error}")
    return [report.as_json() for report in reports]


def be_known(here: Context) -> None:
    """Make this machine a node for a while, where no worker of it is one: its host and commands can be collected."""
    now = here.clock()
    if here.settings.node not in here.database.run(partial(registry.live_nodes, seen_since=now - NODE_GONE)):
        announce(here.database, here.settings, config_hash=here.config_hash, started_at=now, now=now)


def samples_now(here: Context, source: str) -> Iterator[Collected]:
    """What a source's targets give now; nothing is written. Machines other than this one are left out."""
    _, configured = here.source(source)
    if isinstance(configured, PrometheusSource):
        found = Discoverer().discover(configured).targets
        targets = [Target(place, target.address, target.labels) for place, target in enumerate(found)]
    else:
        instance = selftest.ADDRESS if isinstance(configured, SelftestSource) else here.settings.node
        labels = {**configured.labels, "job": configured.name, "instance": instance}
        targets = [Target(0, instance, tuple(sorted(labels.items())))]
    return here.collectors()[configured.kind].collect(configured, targets)
