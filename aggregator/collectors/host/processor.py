"""Processor times, load, and the kernel's counts of processes, interrupts and context switches."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import psutil

from aggregator.collectors.host.procfs import PROC, read_text
from aggregator.collectors.placing import Sample, counter, gauge

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from aggregator.collectors.host.floor import CpuFloor

#: The order of the columns of a `cpu` line in /proc/stat; two guest columns follow, which are counted in user and nice.
MODES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
_COUNTERS = {"intr": "node_intr_total", "ctxt": "node_context_switches_total", "processes": "node_forks_total"}
_GAUGES = {
    "btime": "node_boot_time_seconds",
    "procs_running": "node_procs_running",
    "procs_blocked": "node_procs_blocked",
}


class Statistics:
    """/proc/stat, in one read.

    psutil has neither the processors' own numbers (which skip one that is offline) nor all of the counts, and it would
    read this file, the dearest one here, once for each part of it.
    """

    def __init__(self, floor: CpuFloor) -> None:
        self._floor = floor

    def read(self) -> Iterator[Sample]:
        """Samples named as node_exporter's collectors `cpu` and `stat` name them. Raises OSError, ValueError."""
        if not (PROC / "stat").exists():
            return iter(_portable())
        return self._parsed(read_text(PROC / "stat"))

    def _parsed(self, text: str) -> Iterator[Sample]:
        fields = [line.split(None, 9)[:9] for line in text.splitlines()]
        boot_time = next((value for name, value, *_ in fields if name == "btime"), "")
        ticks = {name[3:]: [int(part) for part in values] for name, *values in fields if _is_one_processor(name)}
        ticks_per_second = os.sysconf("SC_CLK_TCK")
        for cpu, times in self._floor.raised(boot_time, ticks).items():
            for mode, value in zip(MODES, times, strict=False):
                yield counter("node_cpu_seconds_total", value / ticks_per_second, cpu=cpu, mode=mode)
        for name, *values in fields:
            if name in _COUNTERS:
                yield counter(_COUNTERS[name], float(values[0]))
            elif name in _GAUGES:
                yield gauge(_GAUGES[name], float(values[0]))


def _is_one_processor(name: str) -> bool:
    return name.startswith("cpu") and name != "cpu"


def _portable() -> Iterable[Sample]:
    for cpu, times in enumerate(psutil.cpu_times(percpu=True)):
        for mode, value in times._asdict().items():
            if mode in MODES:
                yield counter("node_cpu_seconds_total", value, cpu=str(cpu), mode=mode)
    yield gauge("node_boot_time_seconds", psutil.boot_time())


def read_load() -> Iterator[Sample]:
    """The load averages, the number of processes, and the clock."""
    for minutes, value in zip((1, 5, 15), psutil.getloadavg(), strict=True):
        yield gauge(f"node_load{minutes}", value)
    yield gauge("node_time_seconds", time.time())
    yield gauge("node_processes_pids", len(psutil.pids()))


def read_identity() -> Iterator[Sample]:
    """The name, kernel and machine type of this host, as labels of a constant 1."""
    uname = os.uname()
    yield gauge(
        "node_uname_info",
        1,
        domainname=_domain_name(),
        machine=uname.machine,
        nodename=uname.nodename,
        release=uname.release,
        sysname=uname.sysname,
        version=uname.version,
    )


def _domain_name() -> str:
    try:
        return read_text(PROC / "sys/kernel/domainname").strip()
    except OSError:
        return ""
