"""The dashboard *Host*: machines as the source `host` or a node_exporter measures them, read from the aggregates."""

from __future__ import annotations

from deploy.grafana.source.host_devices import NETWORK, STORAGE
from deploy.grafana.source.host_queries import DISKS, INSTANCE, JOB, SHARE, by_instance, chosen, pairs, ranged
from deploy.grafana.source.host_system import MEMORY, PROCESSOR
from deploy.grafana.source.model import POSTGRES, Annotation, Dashboard, Look, Panel, Query, Row, Variable

VARIABLES = (
    Variable(
        "job",
        "Job",
        "A source's name: one of kind host, or one that scrapes node_exporters.",
        "query",
        "SELECT aggregator.label_values('node_load1', 'job')",
    ),
    Variable(
        "instance",
        "Instance",
        "One machine or more.",
        "query",
        f"SELECT aggregator.label_values($q$node_load1{{{JOB}}}$q$, 'instance')",
        is_multiple=True,
        all_value=".*",
    ),
)

_GLANCE = Row(
    "At a glance",
    (
        Panel(
            "gauge",
            "CPU busy",
            "Share of processor time that was not idle, over all processors.",
            (by_instance("1 - avg(rate)", 'node_cpu_seconds_total{mode="idle"}', group=True),),
            SHARE,
            INSTANCE,
            width=4,
            height=6,
        ),
        Panel(
            "gauge",
            "Memory used",
            "Share of memory that the kernel could not give to a new program without swapping.",
            (
                Query(
                    "SELECT time, instance, 1 - a / nullif(b, 0) AS value\nFROM "
                    + pairs("node_memory_MemAvailable_bytes", "node_memory_MemTotal_bytes", "avg")
                    + "\nORDER BY time"
                ),
            ),
            SHARE,
            INSTANCE,
            width=4,
            height=6,
        ),
        Panel(
            "gauge",
            "Fullest file system",
            "Space that is used of the fullest file system, those in memory apart.",
            (
                Query(
                    "SELECT time, instance, max(1 - a / nullif(b, 0)) AS value\nFROM "
                    + pairs(f"node_filesystem_avail_bytes{DISKS}", f"node_filesystem_size_bytes{DISKS}", "last")
                    + "\nGROUP BY time, instance\nORDER BY time"
                ),
            ),
            SHARE,
            INSTANCE,
            width=4,
            height=6,
        ),
        Panel(
            "stat",
            "Load, one minute",
            "Processes that run or want to, on average. More than there are processors: they wait.",
            (by_instance("avg", "node_load1"),),
            Look(decimals=2, min=0),
            INSTANCE,
            width=4,
            height=6,
        ),
        Panel(
            "stat",
            "Uptime",
            "Since the last boot, at the newest interval.",
            (by_instance("greatest(0, extract(epoch FROM time)::float8 - last)", "node_boot_time_seconds"),),
            Look("s", decimals=1),
            INSTANCE,
            width=4,
            height=6,
        ),
        Panel(
            "stat",
            "Completeness",
            "Samples that arrived over samples due, in the newest interval. The last one may be open: then it is low"
            " until the interval has ended.",
            (by_instance("completeness", "up"),),
            Look("percentunit", min=0, max=1, steps=((None, "red"), (0.9, "orange"), (0.99, "green"))),
            INSTANCE,
            width=4,
            height=6,
        ),
        Panel(
            "table",
            "Machines",
            "What the chosen machines say that they are, and when they last did.",
            (
                Query(
                    chosen(
                        "DISTINCT ON (instance) instance, labels ->> 'nodename' AS name,\n"
                        "    labels ->> 'sysname' AS system, labels ->> 'release' AS kernel,\n"
                        "    labels ->> 'machine' AS architecture, time AS newest",
                        "node_uname_info",
                    )
                    + "\nORDER BY instance, time DESC",
                    "table",
                ),
            ),
            width=24,
            height=5,
        ),
    ),
)

_QUALITY = Row(
    "How good these numbers are",
    (
        Panel(
            "timeseries",
            "Completeness and success",
            "Samples that arrived over samples due, and the share of collections that reached the machine; and the tier"
            " that is read at this interval. The last interval may be open.",
            (
                Query(
                    chosen("time, instance, tier, completeness AS complete, avg AS reached", "up") + "\nORDER BY time"
                ),
            ),
            Look("percentunit", min=0, max=1),
            "${__field.labels.instance} ${__field.name}, from ${__field.labels.tier}",
            width=24,
        ),
    ),
)

#: The region that may still change, shaded over every panel.
NOT_FINAL = Annotation(
    "Not final",
    "SELECT min(time) AS time, $__timeTo()::timestamptz AS timeend, 'not final: more samples may come' AS text\n"
    f"FROM {ranged('up')}\nWHERE NOT is_final\nHAVING count(*) > 0",
    "light-blue",
)

HOST = Dashboard(
    "aggregator-host",
    "Host",
    "Processor, memory, disks and network of machines, from the aggregates, for any span that is kept.",
    POSTGRES,
    VARIABLES,
    (_GLANCE, PROCESSOR, MEMORY, STORAGE, NETWORK, _QUALITY),
    (NOT_FINAL,),
)
