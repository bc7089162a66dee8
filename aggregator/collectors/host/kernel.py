"""Open files, tracked connections, and pressure: what the kernel says of its own limits."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from aggregator.collectors.host.procfs import PROC, read_present
from aggregator.collectors.placing import Sample, counter, gauge

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MICROSECONDS_PER_SECOND = 1_000_000
#: Resource and line of /proc/pressure, and how the seconds are called. (All processes waiting for a processor at once
#: means nothing for the whole host, so `cpu` has no second line.)
_PRESSURE = (
    ("cpu", "some", "node_pressure_cpu_waiting_seconds_total"),
    ("io", "some", "node_pressure_io_waiting_seconds_total"),
    ("io", "full", "node_pressure_io_stalled_seconds_total"),
    ("memory", "some", "node_pressure_memory_waiting_seconds_total"),
    ("memory", "full", "node_pressure_memory_stalled_seconds_total"),
)
_CONNECTIONS = (
    ("nf_conntrack_count", "node_nf_conntrack_entries"),
    ("nf_conntrack_max", "node_nf_conntrack_entries_limit"),
)


def read_open_files() -> Iterator[Sample]:
    """File handles in use and their limit; nothing where the kernel does not tell."""
    if text := read_present(PROC / "sys/fs/file-nr"):
        allocated, _, maximum = text.split()
        yield gauge("node_filefd_allocated", float(allocated))
        yield gauge("node_filefd_maximum", float(maximum))


def read_connections() -> Iterator[Sample]:
    """Tracked connections and their limit; nothing where tracking is not loaded."""
    for name, metric in _CONNECTIONS:
        if text := read_present(PROC / "sys/net/netfilter" / name):
            yield gauge(metric, float(text))


def read_pressure() -> Iterator[Sample]:
    """Seconds in which some, or all, processes waited for a resource; nothing where the kernel does not measure it."""
    texts = {resource: _pressure_text(PROC / "pressure" / resource) for resource in ("cpu", "io", "memory")}
    for resource, line, metric in _PRESSURE:
        if found := re.search(rf"^{line} .*total=(\d+)$", texts[resource], re.MULTILINE):
            yield counter(metric, int(found[1]) / _MICROSECONDS_PER_SECOND)


def _pressure_text(path: Path) -> str:
    try:
        return read_present(path) or ""
    except OSError:  # "Operation not supported": compiled in, but switched off at boot
        return ""
