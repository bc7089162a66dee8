"""The installation's own metrics, made from a status whenever Prometheus asks."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from aggregator.storage.quarantine import TASKS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from aggregator.serving.status import Status
    from aggregator.storage.health import Health

_PREFIX = "aggregator_"
_Labelled = tuple[tuple[str, ...], float]


class InstallationMetrics(Collector):
    """One status as metrics; without a database only what is known without it."""

    def __init__(self, status: Status, queue_messages: Mapping[str, int]) -> None:
        self._status = status
        self._queue_messages = queue_messages

    def collect(self) -> Iterator[Metric]:
        """Every metric that interface.md promises of the installation and that has a source."""
        for name, server in self._status.servers.items():
            if server.is_up is not None:
                yield _gauge(f"{name}_up", f"Whether the {name} answers.", (), [((), float(server.is_up))])
        waiting = [((queue,), float(count)) for queue, count in self._queue_messages.items()]
        yield _gauge("queue_messages", "Messages that wait for a worker.", ("queue",), waiting)
        if self._status.health is not None:
            yield from _of_health(self._status.health, self._status.as_of)


def _of_health(health: Health, now: datetime) -> Iterator[Metric]:
    yield from _of_sources(health)
    yield from _of_tiers(health)
    yield from _of_database(health, now)
    published = [] if health.published_at is None else [((), health.published_at.timestamp())]
    yield _gauge("config_published_timestamp_seconds", "When the configuration was published.", (), published)
    wake = [] if health.last_wake is None else [((), health.last_wake.timestamp())]
    yield _gauge("beat_last_wake_timestamp_seconds", "When beat last woke any job.", (), wake)
    seen = [((node.name,), node.last_seen.timestamp()) for node in health.nodes]
    yield _gauge("worker_last_seen_timestamp_seconds", "When a node's worker last reported.", ("node",), seen)
    ahead = [((table,), (end - now).total_seconds() if end else 0.0) for table, end in health.partitions_end.items()]
    yield _gauge("partitions_ahead_seconds", "How far ahead partitions reach.", ("table",), ahead)
    sizes = [((table,), float(size)) for table, size in health.table_bytes.items()]
    yield _gauge("table_bytes", "Bytes of a table with its indexes and partitions.", ("table",), sizes)
    set_aside = Counter(found.job.task for found in health.quarantined)
    # Each task, also without any: an alert on what was never there does not fire.
    quarantined = [((task,), float(set_aside[task])) for task in TASKS]
    yield _gauge("tasks_quarantined", "Jobs that are set aside, by task.", ("task",), quarantined)
    computed = [
        ((summary.name,), summary.computed_at.timestamp()) for summary in health.summaries if summary.computed_at
    ]
    yield _gauge("summary_computed_timestamp_seconds", "When a summary was last computed.", ("summary",), computed)
    refresh = [((summary.name,), summary.refresh_seconds) for summary in health.summaries]
    yield _gauge("summary_refresh_interval_seconds", "How often a summary is to be computed.", ("summary",), refresh)


def _of_database(health: Health, now: datetime) -> Iterator[Metric]:
    waits = [
        ((tier,), max(0.0, (now - due).total_seconds()) if due else 0.0) for tier, due in health.sealing_due.items()
    ]
    help_text = "How long the oldest span that is not sealed has waited for it, of a tier or of samples."
    yield _gauge("sealing_due_age_seconds", help_text, ("tier",), waits)
    if (limits := health.limits) is not None:
        used, allowed = [((), float(limits.connections))], [((), float(limits.connections_allowed))]
        yield _gauge("database_connections", "Connections to the server, of all its databases.", (), used)
        yield _gauge("database_connections_allowed", "Connections that may be, but for reserved ones.", (), allowed)
        help_text = "Transaction numbers in use, of those that may be before PostgreSQL refuses to write."
        ids = [((), limits.transaction_ids_used)]
        yield _gauge("database_transaction_ids_used_ratio", help_text, (), ids)


def _of_sources(health: Health) -> Iterator[Metric]:
    sources = health.sources
    states = [
        ((source.name, state), float(count))
        for source in sources
        for state, count in (("up", source.up), ("down", source.down), ("unknown", source.unknown))
    ]
    yield _gauge("targets", "Targets, by whether they answer.", ("source", "state"), states)
    series = [((source.name,), float(source.series)) for source in sources]
    yield _gauge("series", "Series that are registered.", ("source",), series)
    intervals = [((source.name,), source.interval_seconds) for source in sources]
    yield _gauge("source_interval_seconds", "How often a source is to be collected.", ("source",), intervals)
    successes = [((source.name,), source.last_success.timestamp()) for source in sources if source.last_success]
    help_text = "When the newest collection began that had a success."
    yield _gauge("source_last_success_timestamp_seconds", help_text, ("source",), successes)
    collect = [(("collect", source.name), float(source.slots_missed)) for source in sources]
    others = [((stage, ""), float(missed)) for stage, missed in health.slots_missed.items()]
    yield _counter(
        "slots_missed", "Slots of the schedule that nobody worked on.", ("stage", "source"), [*collect, *others]
    )


def _of_tiers(health: Health) -> Iterator[Metric]:
    newest = [((tier.name,), tier.newest_bucket.timestamp()) for tier in health.tiers if tier.newest_bucket]
    yield _gauge("tier_newest_bucket_timestamp_seconds", "The start of the newest bucket.", ("tier",), newest)
    steps = [((tier.name,), tier.step_seconds) for tier in health.tiers]
    yield _gauge("tier_step_seconds", "How long a bucket is.", ("tier",), steps)
    lags, rows = [], []
    for tier in health.tiers:
        lags += [((tier.name, "live"), tier.lag_seconds), ((tier.name, "backfill"), tier.backfill_lag_seconds)]
        rows += [((tier.name, "live"), float(tier.live_rows)), ((tier.name, "backfill"), float(tier.backfill_rows))]
    yield _gauge("oldest_due_age_seconds", "How long the oldest due roll-up has waited.", ("tier", "kind"), lags)
    yield _gauge("dirty_rows", "Rows of the ledger that wait to be rolled up.", ("tier", "kind"), rows)
    mismatches = [((tier.name,), float(tier.verify_mismatches)) for tier in health.tiers]
    yield _counter("verify_mismatches", "Values that a daily verification found to be wrong.", ("tier",), mismatches)
    newest_one = [] if health.verification is None else [health.verification]
    ended = [((), one.finished_at.timestamp()) for one in newest_one]
    yield _gauge("verify_finished_timestamp_seconds", "When the newest daily verification ended.", (), ended)
    wrong = [((), float(one.error is not None)) for one in newest_one]
    yield _gauge("verify_error", "Whether the newest daily verification found a value that is wrong.", (), wrong)


def _gauge(name: str, help_text: str, labels: Sequence[str], values: Sequence[_Labelled]) -> Metric:
    family = GaugeMetricFamily(_PREFIX + name, help_text, labels=labels)
    for label_values, value in values:
        family.add_metric(label_values, value)
    return family


def _counter(name: str, help_text: str, labels: Sequence[str], values: Sequence[_Labelled]) -> Metric:
    family = CounterMetricFamily(_PREFIX + name, help_text, labels=labels)
    for label_values, value in values:
        family.add_metric(label_values, value)
    return family
