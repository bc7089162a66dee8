"""Network devices: what went through them and whether they are up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil

from aggregator.collectors.host.procfs import SYS, read_present
from aggregator.collectors.placing import Sample, counter, gauge

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FIELDS = (
    ("bytes_recv", "node_network_receive_bytes_total"),
    ("packets_recv", "node_network_receive_packets_total"),
    ("errin", "node_network_receive_errs_total"),
    ("dropin", "node_network_receive_drop_total"),
    ("bytes_sent", "node_network_transmit_bytes_total"),
    ("packets_sent", "node_network_transmit_packets_total"),
    ("errout", "node_network_transmit_errs_total"),
    ("dropout", "node_network_transmit_drop_total"),
)


def read_network() -> Iterator[Sample]:
    """Traffic of every device, from boot, as the kernel counts it (psutil's own correction of wraps is off)."""
    for device, counts in psutil.net_io_counters(pernic=True, nowrap=False).items():
        for field, metric in _FIELDS:
            yield counter(metric, getattr(counts, field), device=device)


def read_network_state() -> Iterator[Sample]:
    """1 for every device whose operational state is `up`; `lo`, whose state is `unknown`, has 0 as in node_exporter."""
    root = SYS / "class/net"
    for device in _devices(root):
        if state := _state(root / device / "operstate"):
            yield gauge("node_network_up", float(state == "up"), device=device)


def _devices(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir()) if root.is_dir() else []


def _state(path: Path) -> str | None:
    try:
        text = read_present(path)
    except OSError:  # the device was taken away while we looked at it
        return None
    return text.strip() if text else None
