"""Disks, file systems, network and what the kernel counts, on the dashboard *Host*."""

from __future__ import annotations

from deploy.grafana.source.host_queries import DEVICE, DISKS, KIND, SHARE, by_device, by_kind, chosen, pairs
from deploy.grafana.source.model import Look, Panel, Query, Row

STORAGE = Row(
    "Disks and file systems",
    (
        Panel(
            "timeseries",
            "Disk throughput",
            "Bytes read (above) and written (below) per second.",
            (
                by_device(
                    read=("rate", "node_disk_read_bytes_total"), written=("-rate", "node_disk_written_bytes_total")
                ),
            ),
            Look("Bps"),
            DEVICE,
        ),
        Panel(
            "timeseries",
            "Disk operations",
            "Reads (above) and writes (below) completed per second.",
            (
                by_device(
                    reads=("rate", "node_disk_reads_completed_total"),
                    writes=("-rate", "node_disk_writes_completed_total"),
                ),
            ),
            Look("iops"),
            DEVICE,
        ),
        Panel(
            "timeseries",
            "Disk utilisation",
            "Share of time in which the device had something to do. One that works in parallel may take more.",
            (by_device(busy=("rate", "node_disk_io_time_seconds_total")),),
            Look("percentunit", min=0, max=1),
            DEVICE,
        ),
        Panel(
            "timeseries",
            "File systems, used",
            "Share of each file system's space that is not available, those in memory apart.",
            (
                Query(
                    "SELECT time, instance, labels ->> 'mountpoint' AS mountpoint, 1 - a / nullif(b, 0) AS value\nFROM "
                    + pairs(f"node_filesystem_avail_bytes{DISKS}", f"node_filesystem_size_bytes{DISKS}", "last")
                    + "\nORDER BY time"
                ),
            ),
            SHARE,
            "${__field.labels.instance} ${__field.labels.mountpoint}",
        ),
        Panel(
            "table",
            "File systems, newest",
            "The newest interval of each file system: its size, what is available, and the share that is used.",
            (
                Query(
                    "SELECT DISTINCT ON (instance, mountpoint) instance, labels ->> 'mountpoint' AS mountpoint,\n"
                    "    labels ->> 'device' AS device, labels ->> 'fstype' AS type,\n"
                    "    pg_size_pretty(b::bigint) AS size, pg_size_pretty(a::bigint) AS available,\n"
                    "    1 - a / nullif(b, 0) AS used\nFROM "
                    + pairs("node_filesystem_avail_bytes", "node_filesystem_size_bytes", "last")
                    + "\nORDER BY instance, mountpoint, time DESC",
                    "table",
                ),
            ),
            SHARE,
            width=24,
        ),
    ),
)

NETWORK = Row(
    "Network and kernel",
    (
        Panel(
            "timeseries",
            "Network traffic",
            "Bytes received (above) and sent (below) per second, loopback apart.",
            (
                by_device(
                    received=("rate", 'node_network_receive_bytes_total{device!="lo"}'),
                    sent=("-rate", 'node_network_transmit_bytes_total{device!="lo"}'),
                ),
            ),
            Look("Bps"),
            DEVICE,
        ),
        Panel(
            "timeseries",
            "Network errors and drops",
            "Packets that were lost or broken, per second, all devices of a machine together.",
            (
                Query(
                    "\nUNION ALL\n".join(
                        chosen(f"time, instance, '{kind}' AS kind, sum(rate) AS value", f"node_network_{metric}_total")
                        + "\nGROUP BY time, instance"
                        for kind, metric in (
                            ("errors received", "receive_errs"),
                            ("errors sent", "transmit_errs"),
                            ("drops received", "receive_drop"),
                            ("drops sent", "transmit_drop"),
                        )
                    )
                    + "\nORDER BY time"
                ),
            ),
            Look("pps", min=0),
            KIND,
        ),
        Panel(
            "timeseries",
            "Processes",
            "Processes that run, and that wait for a disk.",
            (by_kind("avg", running="node_procs_running", blocked="node_procs_blocked"),),
            Look(min=0),
            KIND,
        ),
        Panel(
            "timeseries",
            "Open files",
            "File handles in use, of those that the kernel allows.",
            (by_kind("avg", in_use="node_filefd_allocated"),),
            Look(min=0),
            KIND,
        ),
    ),
)
