"""What becomes of samples, on the dashboard *Aggregator operations*: roll-ups, tasks, summaries, nodes, storage."""

from __future__ import annotations

from deploy.grafana.source.model import Look, Panel, Query, Row
from deploy.grafana.source.operations_forms import age, asks, graph, newest, rate, slowest

WORK = Row(
    "Roll-ups, tasks and summaries",
    (
        graph("Roll-up rows", "Rows written per second.", rate("rollup_rows_total", "tier")),
        graph(
            "Roll-up, 95 % are faster",
            "How long a transaction of roll-ups takes.",
            slowest("rollup_duration_seconds", "tier"),
            Look("s", min=0),
        ),
        graph("Task runs", "Tasks that ended per second, by how.", rate("task_runs_total", "task", "outcome")),
        graph(
            "Failed tasks",
            "Tasks per second that ended with an error.",
            asks(
                (
                    'sum by (task) (rate(aggregator_task_runs_total{outcome="failed"}[$__rate_interval]))',
                    "{{task}}",
                )
            ),
            Look("ops", min=0, no_value="none failed"),
        ),
        graph(
            "Task, 95 % are faster",
            "How long tasks run.",
            slowest("task_duration_seconds", "task"),
            Look("s", min=0),
        ),
        graph(
            "Tasks in progress",
            "Tasks that run now, over all nodes.",
            asks(("sum by (task) (aggregator_tasks_in_progress)", "{{task}}")),
        ),
        graph(
            "Age of summaries",
            "Since each summary was last computed.",
            age("summary_computed_timestamp_seconds", "summary"),
            Look("s", min=0),
        ),
        graph(
            "Summary, 95 % are faster",
            "How long a summary takes to refresh.",
            slowest("summary_refresh_duration_seconds", "summary"),
            Look("s", min=0),
        ),
        graph(
            "Mismatches",
            "Values that a verification found to be wrong, in a day. There should be none, ever.",
            asks(("max by (tier) (increase(aggregator_verify_mismatches_total[1d]))", "{{tier}}")),
        ),
    ),
)

STORAGE = Row(
    "Nodes and storage",
    (
        graph(
            "Nodes, last seen",
            "Since the worker of each node last reported.",
            age("worker_last_seen_timestamp_seconds", "node"),
            Look("s", min=0),
        ),
        graph(
            "Bytes",
            "Size of each table with its indexes and partitions.",
            newest("table_bytes", "table"),
            Look("bytes", min=0, is_stacked=True),
        ),
        graph(
            "Partitions ahead",
            "How far ahead partitions have been made. At 0, writing fails.",
            asks(("min by (table) (aggregator_partitions_ahead_seconds)", "{{table}}")),
            Look("s"),
        ),
        graph(
            "Sealing, lag",
            "How long the oldest span that has closed has waited to be made small.",
            newest("sealing_due_age_seconds", "tier"),
            Look("s", min=0),
        ),
        graph(
            "Connections to PostgreSQL",
            "Of all databases of the server, and how many there may be.",
            asks(
                ("max(aggregator_database_connections)", "used"),
                ("max(aggregator_database_connections_allowed)", "allowed"),
            ),
        ),
        graph(
            "Transaction numbers in use",
            "Of those that may be before PostgreSQL refuses to write: VACUUM FREEZE gives them back.",
            asks(("max(aggregator_database_transaction_ids_used_ratio)", "")),
            Look("percentunit", min=0),
        ),
        Panel(
            "table",
            "Versions",
            "How many nodes run which version.",
            (Query("count by (version) (aggregator_build_info)", "table"),),
            height=5,
            interval="",
        ),
        Panel(
            "table",
            "Configurations",
            "How many nodes have which configuration in force, by its hash. There should be one.",
            (Query("count by (hash) (aggregator_config_info)", "table"),),
            height=5,
            interval="",
        ),
    ),
)
