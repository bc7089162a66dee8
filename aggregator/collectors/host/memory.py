"""Memory and swap, as the kernel counts them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import psutil

from aggregator.collectors.host.procfs import PROC, read_present
from aggregator.collectors.placing import Sample, counter, gauge

if TYPE_CHECKING:
    from collections.abc import Iterator

_MEMORY_LINE = re.compile(r"^(\w+)(?:\((\w+)\))?:\s+(\d+)( kB)?$", re.MULTILINE)
_PAGING_LINE = re.compile(r"^((?:oom_kill|pgpg|pswp|pg.*fault)\w*) (\d+)$", re.MULTILINE)
_BYTES_PER_KB = 1_024


def read_memory() -> Iterator[Sample]:
    """`node_memory_<name>_bytes` for every line of /proc/meminfo, of which psutil has only a few."""
    text = read_present(PROC / "meminfo")
    if text is None:
        yield from _portable()
        return
    for name, suffix, value, unit in _MEMORY_LINE.findall(text):
        metric = f"node_memory_{name}_{suffix}" if suffix else f"node_memory_{name}"
        if unit:
            yield gauge(f"{metric}_bytes", float(value) * _BYTES_PER_KB)
        else:
            yield gauge(metric, float(value))


def _portable() -> Iterator[Sample]:
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    yield gauge("node_memory_MemTotal_bytes", memory.total)
    yield gauge("node_memory_MemFree_bytes", memory.free)
    yield gauge("node_memory_MemAvailable_bytes", memory.available)
    yield gauge("node_memory_SwapTotal_bytes", swap.total)
    yield gauge("node_memory_SwapFree_bytes", swap.free)


def read_paging() -> Iterator[Sample]:
    """Pages moved and faults: counts since boot, which node_exporter leaves untyped."""
    for name, value in _PAGING_LINE.findall(read_present(PROC / "vmstat") or ""):
        yield counter(f"node_vmstat_{name}", float(value))
