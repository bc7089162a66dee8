"""The diagnosis of what nodes must agree on: the configuration in force, and the version that runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aggregator
from aggregator.serving.doctor.finding import Finding, fine, warning
from aggregator.serving.status import is_node_alive

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from aggregator.storage.health import Health


def diagnose(health: Health, *, config_hash: str, has_file: bool, now: datetime) -> Iterator[Finding]:
    """Findings on hashes and versions; `config_hash` is that of this process, from a file or from the defaults."""
    yield _own(health, config_hash=config_hash, has_file=has_file)
    alive = [node for node in health.nodes if is_node_alive(node, now=now)]
    others = sorted(f"{node.name} {node.config_hash}" for node in alive if node.config_hash != health.config_hash)
    if others:
        says = f"{health.config_hash} is published; other hashes: {', '.join(others)}"
        remedy = "give all nodes the same file, or none, and restart their workers; `aggregator plan` shows a change"
        yield warning("configuration of nodes", says, remedy)
    elif alive:
        yield fine("configuration of nodes", f"{len(alive)} alive, all with {health.config_hash}")
    versions = {node.version for node in alive} | {aggregator.__version__}
    if len(versions) > 1:
        says = f"several run at once: {', '.join(sorted(versions))}"
        yield warning("version", says, "finish the upgrade: restart workers, beat and web of the older one")
    else:
        yield fine("version", f"aggregator {aggregator.__version__} everywhere")


def _own(health: Health, *, config_hash: str, has_file: bool) -> Finding:
    published = health.config_hash
    if published is None:
        return warning("configuration", f"{config_hash} here, nothing is published yet", "start a worker: it publishes")
    if has_file and config_hash != published:
        says = f"{config_hash} here, {published} is published"
        return warning(
            "configuration", says, "restart this node's worker to publish this file; `aggregator plan` first"
        )
    return fine("configuration", f"{published} is published{'' if config_hash == published else ', defaults are here'}")
