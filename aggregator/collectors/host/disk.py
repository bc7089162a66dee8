"""Block devices: what was read and written, and how long it took."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import psutil

from aggregator.collectors.placing import Sample, counter

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Partitions, loop and memory devices: node_exporter's default.
EXCLUDED_DEVICES = r"^(z?ram|loop|fd|(h|s|v|xv)d[a-z]|nvme\d+n\d+p)\d+$"
_excluded = re.compile(EXCLUDED_DEVICES)
_SECONDS_PER_MILLISECOND = 0.001
_FIELDS = (
    ("read_count", "node_disk_reads_completed_total", 1),
    ("read_merged_count", "node_disk_reads_merged_total", 1),
    ("read_bytes", "node_disk_read_bytes_total", 1),
    ("read_time", "node_disk_read_time_seconds_total", _SECONDS_PER_MILLISECOND),
    ("write_count", "node_disk_writes_completed_total", 1),
    ("write_merged_count", "node_disk_writes_merged_total", 1),
    ("write_bytes", "node_disk_written_bytes_total", 1),
    ("write_time", "node_disk_write_time_seconds_total", _SECONDS_PER_MILLISECOND),
    ("busy_time", "node_disk_io_time_seconds_total", _SECONDS_PER_MILLISECOND),
)


def read_disks() -> Iterator[Sample]:
    """Counts of every whole device, from boot, as the kernel has them (psutil's own correction of wraps is off)."""
    for device, counts in psutil.disk_io_counters(perdisk=True, nowrap=False).items():
        if not _excluded.match(device):
            for field, metric, factor in _FIELDS:
                if hasattr(counts, field):  # which ones there are depends on the system
                    yield counter(metric, getattr(counts, field) * factor, device=device)
