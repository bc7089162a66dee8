"""Processor and memory on the dashboard *Host*."""

from __future__ import annotations

from deploy.grafana.source.host_queries import INSTANCE, KIND, by_kind, chosen, pairs
from deploy.grafana.source.model import Look, Panel, Query, Row

PROCESSOR = Row(
    "Processor",
    (
        Panel(
            "timeseries",
            "CPU by mode",
            "Where processor time went, over all processors of all chosen machines.",
            (
                Query(
                    chosen("time, labels ->> 'mode' AS mode, avg(rate) AS value", "node_cpu_seconds_total")
                    + "\nGROUP BY time, mode\nORDER BY time"
                ),
            ),
            Look("percentunit", min=0, max=1, is_stacked=True),
            "${__field.labels.mode}",
        ),
        Panel(
            "timeseries",
            "Load",
            "Processes that run or want to, on average over 1, 5 and 15 minutes.",
            (by_kind("avg", **{"1_min": "node_load1", "5_min": "node_load5", "15_min": "node_load15"}),),
            Look(min=0, decimals=2),
            KIND,
        ),
        Panel(
            "timeseries",
            "Pressure",
            "Share of time in which some process waited for a resource, as the kernel's pressure information says.",
            (
                by_kind(
                    "rate",
                    processor="node_pressure_cpu_waiting_seconds_total",
                    disk="node_pressure_io_waiting_seconds_total",
                    memory="node_pressure_memory_waiting_seconds_total",
                ),
            ),
            Look("percentunit", min=0),
            KIND,
        ),
        Panel(
            "timeseries",
            "Switches and interrupts",
            "Context switches, interrupts and new processes, per second.",
            (
                by_kind(
                    "rate",
                    context_switches="node_context_switches_total",
                    interrupts="node_intr_total",
                    forks="node_forks_total",
                ),
            ),
            Look("ops", min=0),
            KIND,
        ),
    ),
)

MEMORY = Row(
    "Memory and swap",
    (
        Panel(
            "timeseries",
            "Memory",
            "Of all chosen machines together. What is reclaimable, caches above all, programs get when they need it.",
            (
                Query(
                    "SELECT time, total - available AS used, available - free AS reclaimable, free\nFROM (\n"
                    "    SELECT time, sum(avg) FILTER (WHERE metric = 'node_memory_MemTotal_bytes') AS total,\n"
                    "        sum(avg) FILTER (WHERE metric = 'node_memory_MemAvailable_bytes') AS available,\n"
                    "        sum(avg) FILTER (WHERE metric = 'node_memory_MemFree_bytes') AS free\n    FROM (\n"
                    + "\nUNION ALL\n".join(
                        chosen("time, metric, avg", f"node_memory_{name}_bytes")
                        for name in ("MemTotal", "MemAvailable", "MemFree")
                    )
                    + "\n    ) AS parts\n    GROUP BY time\n) AS sums\nORDER BY time"
                ),
            ),
            Look("bytes", min=0, is_stacked=True),
            "${__field.name}",
        ),
        Panel(
            "timeseries",
            "Swap used",
            "Memory that was moved to disk; 0 where there is no swap.",
            (
                Query(
                    "SELECT time, instance, b - a AS value\nFROM "
                    + pairs("node_memory_SwapFree_bytes", "node_memory_SwapTotal_bytes", "avg")
                    + "\nORDER BY time"
                ),
            ),
            Look("bytes", min=0),
            INSTANCE,
        ),
    ),
)
