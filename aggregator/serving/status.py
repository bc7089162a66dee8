"""The status of the installation: what is stale by which rule, said as sentences, for page, API and command alike."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import aggregator
from aggregator.serving.stored import stored_lists
from aggregator.storage.engine import MOST_CLOCK_DIFFERENCE
from aggregator.storage.health_sources import NODE_GONE_AFTER, SourceHealth

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aggregator.storage.health import Health, NodeHealth, SummaryHealth
    from aggregator.storage.health_tiers import TierHealth

#: A source may miss two collections; one with a short interval gets this long.
SOURCE_PATIENCE = timedelta(seconds=30)
#: A roll-up is woken every minute: what is due may wait two.
LAG_PATIENCE = timedelta(seconds=120)
SUMMARY_PATIENCE = timedelta(seconds=60)
BEAT_PATIENCE = timedelta(seconds=60)
#: A node that was not heard of for longer was taken away on purpose.
NODE_MISSED_FOR = timedelta(days=1)
PARTITIONS_AHEAD = timedelta(hours=1)
MOST_TARGETS_NAMED = 3


@dataclass(frozen=True)
class Server:
    """Whether a server answers; `is_up` None: it is not configured here. `error` says why not and names the setting."""

    is_up: bool | None
    error: str | None = None


@dataclass(frozen=True)
class Status:
    """All that is known of the installation at an instant; `health` is None while the database cannot be read."""

    as_of: datetime
    servers: dict[str, Server]
    health: Health | None

    def problems(self) -> list[str]:
        """What is wrong, one sentence each; empty when all is well."""
        found = [server.error for server in self.servers.values() if server.error]
        if self.health is not None:
            found += _problems(self.health, self.as_of)
        return found

    def document(self) -> dict[str, Any]:
        """The status as JSON knows it: instants in ISO 8601 with Z, lengths in seconds."""
        problems = self.problems()
        head = {"as_of": self.as_of, "version": aggregator.__version__, "ok": not problems, "problems": problems}
        servers = {name: {"up": server.is_up} for name, server in self.servers.items()}
        lists = _lists(self.health, self.as_of) if self.health else dict.fromkeys(_LISTS, ())
        document: dict[str, Any] = plain({**head, "servers": servers, **lists})
        return document


_LISTS = (
    "sources",
    "targets",
    "tiers",
    "summaries",
    "nodes",
    "glance",
    "partitions_held",
    "stored",
    "stored_of_sources",
    "quarantined",
)


def is_source_stale(source: SourceHealth, *, now: datetime) -> bool:
    """Whether a source had no success for three intervals, at least `SOURCE_PATIENCE`; a new one gets as long."""
    patience = max(timedelta(seconds=3 * source.interval_seconds), SOURCE_PATIENCE)
    if not source.targets and source.last_success is None and source.kind == "prometheus":
        return False  # it discovers its targets, and there are none
    return now - (source.last_success or source.published_at) > patience


def is_tier_stale(tier: TierHealth, *, first_slot: datetime | None, now: datetime) -> bool:
    """Whether live work waits too long, or the newest bucket is older than two steps though samples are collected."""
    if tier.lag_seconds > LAG_PATIENCE.total_seconds():
        return True
    since = tier.newest_bucket or first_slot
    return since is not None and now - since > timedelta(seconds=2 * tier.step_seconds) + LAG_PATIENCE


def is_summary_stale(summary: SummaryHealth, *, published_at: datetime | None, now: datetime) -> bool:
    """Whether three refreshes were missed; a new summary gets a minute more."""
    patience = timedelta(seconds=3 * summary.refresh_seconds)
    if summary.computed_at is not None:
        return now - summary.computed_at > max(patience, SUMMARY_PATIENCE)
    return published_at is not None and now - published_at > patience + SUMMARY_PATIENCE


def is_node_alive(node: NodeHealth, *, now: datetime) -> bool:
    """Whether a node's worker reported within `NODE_GONE_AFTER`."""
    return now - node.last_seen <= NODE_GONE_AFTER


def _problems(health: Health, now: datetime) -> Iterator[str]:
    if health.published_at is None:
        yield "nothing was published to the database yet; start a worker, or run `aggregator up`"
        return
    yield from _process_problems(health, now)
    for source in health.sources:
        yield from _source_problems(health, source, now)
    for tier in health.tiers:
        if is_tier_stale(tier, first_slot=health.first_slot, now=now):
            newest = (
                f"its newest bucket is {_instant(tier.newest_bucket)}" if tier.newest_bucket else "it has no bucket"
            )
            waits = (
                f", {tier.live_rows} rows of work wait since {_length(tier.lag_seconds)}" if tier.lag_seconds else ""
            )
            yield f"tier {tier.name} is stale: {newest}{waits}"
    for summary in health.summaries:
        if is_summary_stale(summary, published_at=health.published_at, now=now):
            yield f"summary {summary.name} is stale: {summary.last_error or 'no refresh has ended in time'}"
    if health.verification is not None and health.verification.error is not None:
        when = _instant(health.verification.finished_at)
        yield f"verification of {when}: {health.verification.error}; see docs/verify.md"
    for table, end in health.partitions_end.items():
        if end is None or end - now < PARTITIONS_AHEAD:
            yield f"table {table} has no partition for what comes next; run `aggregator maintain`"


def _process_problems(health: Health, now: datetime) -> Iterator[str]:
    if abs(health.clock_ahead_seconds) > MOST_CLOCK_DIFFERENCE.total_seconds():
        direction = "ahead of" if health.clock_ahead_seconds > 0 else "behind"
        length = _length(abs(health.clock_ahead_seconds))
        yield f"this machine's clock is {length} {direction} PostgreSQL's; nothing is collected here; set both by NTP"
    for found in health.quarantined:
        yield (
            f"job {found.job} is quarantined: it lost its process {found.losses} times in a row ({found.reason});"
            f" it is tried again after {_instant(found.retry_at)}; see `aggregator quarantine list`"
        )
    woken = health.last_wake or health.published_at
    if woken is not None and now - woken > BEAT_PATIENCE:
        since = _length((now - woken).total_seconds())
        yield f"beat has woken nothing for {since}; is `celery -A aggregator beat` running?"
    alive = [node for node in health.nodes if is_node_alive(node, now=now)]
    if not alive:
        yield "no worker is alive; start one with `celery -A aggregator worker`"
    for node in health.nodes:
        away = now - node.last_seen
        if alive and NODE_GONE_AFTER < away <= NODE_MISSED_FOR:
            yield f"node {node.name} was last seen {_length(away.total_seconds())} ago; is its worker running?"


def _source_problems(health: Health, source: SourceHealth, now: datetime) -> Iterator[str]:
    down = [target for target in health.targets if target.source == source.name and target.is_up is False]
    if is_source_stale(source, now=now):
        since = f"since {_instant(source.last_success)}" if source.last_success else "yet"
        yield f"source {source.name} is stale: no success {since}: {source.last_error or 'it was not collected'}"
    elif down:
        named = "; ".join(f"{target.instance}: {target.last_error}" for target in down[:MOST_TARGETS_NAMED])
        more = f"; and {len(down) - MOST_TARGETS_NAMED} more" if len(down) > MOST_TARGETS_NAMED else ""
        yield f"source {source.name}: {len(down)} of {source.targets} targets are down ({named}{more})"


def _lists(health: Health, now: datetime) -> dict[str, list[dict[str, Any]]]:
    return {
        "sources": [
            {**_without(source, "published_at"), "stale": is_source_stale(source, now=now)} for source in health.sources
        ],
        "targets": [{**_without(target, "source_id", "is_up"), "up": target.is_up} for target in health.targets],
        "tiers": [
            {
                **_without(tier, "live_rows", "backfill_rows"),
                "backlog": tier.live_rows + tier.backfill_rows,
                "stale": is_tier_stale(tier, first_slot=health.first_slot, now=now),
            }
            for tier in health.tiers
        ],
        "summaries": [
            {
                **asdict(summary),
                "stale": is_summary_stale(summary, published_at=health.published_at, now=now),
            }
            for summary in health.summaries
        ],
        "nodes": [{**asdict(node), "alive": is_node_alive(node, now=now)} for node in health.nodes],
        "glance": [asdict(glance) for glance in health.glance],
        "partitions_held": [asdict(held) for held in health.partitions_held],
        **stored_lists(health.measured),
        "quarantined": [{**_without(found, "job"), "name": str(found.job)} for found in health.quarantined],
    }


def _without(value: Any, *names: str) -> dict[str, Any]:  # noqa: ANN401 - any dataclass
    return {name: field for name, field in asdict(value).items() if name not in names}


def plain(value: Any) -> Any:  # noqa: ANN401 - what JSON can hold
    """A value as JSON holds it: instants in ISO 8601 with Z, infinities and NaN as null."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return _instant(value) if isinstance(value, datetime) else value


def _instant(instant: datetime | None) -> str:
    if instant is None:
        return "never"
    return instant.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _length(seconds: float) -> str:
    """A length of time as people say it: `95 s`, `12 min`, `5 h`, `3 d`."""
    for unit, size, most in (("s", 1, 120), ("min", 60, 120), ("h", 3_600, 48)):
        if seconds < size * most:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"
