"""The dashboard *Aggregator operations*: the service's own metrics, as Prometheus scrapes them."""

from __future__ import annotations

from deploy.grafana.source.model import PROMETHEUS, Dashboard, Look, Panel, Query, Row
from deploy.grafana.source.operations_forms import YES, age, asks, graph, late, newest, rate, slowest, stat
from deploy.grafana.source.operations_work import STORAGE, WORK

_ALIVE = Row(
    "Is it alive?",
    (
        stat(
            "Servers",
            "Whether PostgreSQL, the broker and the cache answer.",
            asks(
                ("min(aggregator_database_up)", "database"),
                ("min(aggregator_broker_up)", "broker"),
                ("min(aggregator_cache_up)", "cache"),
            ),
            YES,
        ),
        stat(
            "Scraped by Prometheus",
            "Whether Prometheus reaches the exporter of each node, and `web`. What it does not reach, is not here.",
            asks(('min by (job) (up{job=~"aggregator.*"})', "{{job}}")),
            YES,
        ),
        stat(
            "Newest data",
            "How long ago the newest collection began that had a success, of the source that is furthest behind.",
            asks(("max(time() - max by (source) (aggregator_source_last_success_timestamp_seconds))", "")),
            late(120, 600),
        ),
        stat(
            "Roll-ups, lag",
            "How long the oldest roll-up that is due has waited, imports and recomputations apart.",
            asks(('max(aggregator_oldest_due_age_seconds{kind="live"})', "")),
            late(60, 300),
        ),
        stat(
            "Beat, last wake",
            "How long ago beat last woke any job. Where it grows, nothing is begun any more.",
            asks(("time() - max(aggregator_beat_last_wake_timestamp_seconds)", "")),
            late(60, 300),
        ),
        stat(
            "Targets down",
            "Targets that did not answer when they were last asked.",
            asks(('sum(max by (source) (aggregator_targets{state="down"}))', "")),
            Look(min=0, decimals=0, steps=((None, "green"), (1, "orange"))),
        ),
    ),
)

_LAG = Row(
    "Freshness, lag and backlog",
    (
        graph(
            "Age of the newest data by source",
            "Since the newest collection began that had a success.",
            age("source_last_success_timestamp_seconds", "source"),
            Look("s", min=0),
        ),
        graph(
            "Age of the newest bucket by tier",
            "Since the newest bucket began: it rises by the tier's step, and falls when the next has been rolled up.",
            age("tier_newest_bucket_timestamp_seconds", "tier"),
            Look("s", min=0),
        ),
        graph(
            "Lag of roll-ups",
            "How long the oldest due mark has waited. Backfill is imports and recomputations: it may be long.",
            newest("oldest_due_age_seconds", "tier", "kind"),
            Look("s", min=0),
        ),
        graph(
            "Backlog of roll-ups",
            "Marks that wait: buckets whose input has changed since they were rolled up.",
            newest("dirty_rows", "tier", "kind"),
        ),
        graph("Messages that wait", "Messages in each queue, for a worker to take.", newest("queue_messages", "queue")),
        graph(
            "Slots missed",
            "Scheduled instants that nobody worked on, per minute: a gap of each source that is named.",
            asks(
                (
                    "60 * max by (stage, source) (deriv(aggregator_slots_missed_total[$__rate_interval]))",
                    "{{stage}} {{source}}",
                )
            ),
        ),
    ),
)

_COLLECT = Row(
    "Collections",
    (
        graph(
            "Collections by outcome",
            "Targets asked per second, by source and how it ended.",
            rate("collections_total", "source", "outcome"),
            Look("ops", min=0),
        ),
        graph(
            "Failed collections",
            "Targets per second that did not answer, or whose answer was refused, and why.",
            asks(
                (
                    'sum by (source, outcome) (rate(aggregator_collections_total{outcome!="ok"}[$__rate_interval]))',
                    "{{source}} {{outcome}}",
                )
            ),
            Look("ops", min=0, no_value="none failed"),
        ),
        graph(
            "Collection, 95 % are faster",
            "How long targets take to answer.",
            slowest("collect_duration_seconds", "source"),
            Look("s", min=0),
        ),
        graph("Samples", "Samples stored per second.", rate("samples_total", "source"), Look("short", min=0)),
        graph(
            "Samples refused",
            "Samples, or whole scrapes, that were refused, per second, and why.",
            rate("samples_rejected_total", "source", "reason"),
            Look("short", min=0, no_value="none refused"),
        ),
        graph(
            "Late samples",
            "Samples per second for a bucket that had been rolled up before: it is rolled up again.",
            rate("late_samples_total", "source"),
            Look("short", min=0, no_value="none late"),
        ),
        graph(
            "Targets by state",
            "Targets that answer, do not, or have not been asked yet.",
            newest("targets", "source", "state"),
        ),
        graph("Series", "Series that are registered.", newest("series", "source")),
        Panel(
            "heatmap",
            "Collection times",
            "How many targets took how long to answer.",
            (
                Query(
                    "sum by (le) (increase(aggregator_collect_duration_seconds_bucket[$__rate_interval]))",
                    "heatmap",
                    "{{le}}",
                ),
            ),
            width=8,
            interval="",
            max_points=100,
        ),
    ),
)

OPERATIONS = Dashboard(
    "aggregator-operations",
    "Aggregator operations",
    "Whether the service is alive, late or failing, and since when: its own metrics, scraped by Prometheus.",
    PROMETHEUS,
    (),
    (_ALIVE, _LAG, _COLLECT, WORK, STORAGE),
    refresh="30s",
)
