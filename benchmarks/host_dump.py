"""What hosts exposed in the past, as a dump in Prometheus' format: the series that the source `host` gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt

_CPU_MODES = ("idle", "iowait", "irq", "nice", "softirq", "steal", "system", "user")
_DISK = (
    *("node_disk_read_bytes_total", "node_disk_written_bytes_total", "node_disk_reads_completed_total"),
    *("node_disk_writes_completed_total", "node_disk_read_time_seconds_total", "node_disk_write_time_seconds_total"),
    *("node_disk_io_time_seconds_total", "node_disk_reads_merged_total", "node_disk_writes_merged_total"),
)
_NETWORK = (
    *("node_network_receive_bytes_total", "node_network_transmit_bytes_total", "node_network_receive_packets_total"),
    *("node_network_transmit_packets_total", "node_network_receive_errs_total", "node_network_transmit_errs_total"),
    *("node_network_receive_drop_total", "node_network_transmit_drop_total"),
)
_FILE_SYSTEM = (
    *("node_filesystem_size_bytes", "node_filesystem_free_bytes", "node_filesystem_avail_bytes"),
    *("node_filesystem_files", "node_filesystem_files_free", "node_filesystem_readonly"),
    "node_filesystem_device_error",
)
_MEMORY = (
    *("node_memory_MemTotal_bytes", "node_memory_MemFree_bytes", "node_memory_MemAvailable_bytes"),
    *("node_memory_Buffers_bytes", "node_memory_Cached_bytes", "node_memory_SwapTotal_bytes"),
    *("node_memory_SwapFree_bytes", "node_memory_Active_bytes", "node_memory_Inactive_bytes"),
    *("node_memory_Dirty_bytes", "node_memory_Slab_bytes", "node_memory_Shmem_bytes"),
)
_OTHERS = (
    *("node_load1", "node_load5", "node_load15", "node_procs_running", "node_procs_blocked", "node_processes_pids"),
    *("node_forks_total", "node_intr_total", "node_context_switches_total", "node_boot_time_seconds"),
    *("node_time_seconds", "node_filefd_allocated", "node_filefd_maximum", "node_nf_conntrack_entries"),
    *("node_nf_conntrack_entries_limit", "up", "scrape_duration_seconds"),
)
#: Gauges that hardly ever change.
_CONSTANT = {
    *("node_memory_MemTotal_bytes", "node_memory_SwapTotal_bytes", "node_filesystem_size_bytes", "up"),
    *("node_filesystem_files", "node_filesystem_readonly", "node_filesystem_device_error", "node_boot_time_seconds"),
    *("node_filefd_maximum", "node_nf_conntrack_entries_limit"),
}
JOB = "host"


def host_series() -> Iterator[tuple[str, str]]:
    """Metric and labels of each of the 100 series of a host, without job and instance."""
    yield from (("node_cpu_seconds_total", f'cpu="{cpu}",mode="{mode}"') for cpu in range(2) for mode in _CPU_MODES)
    yield from ((metric, f'device="{device}"') for device in ("sda", "sdb") for metric in _DISK)
    yield from ((metric, f'device="{device}"') for device in ("eth0", "lo") for metric in _NETWORK)
    for mountpoint in ("/", "/var", "/srv"):
        labels = f'device="/dev/sda{len(mountpoint)}",fstype="ext4",mountpoint="{mountpoint}"'
        yield from ((metric, labels) for metric in _FILE_SYSTEM)
    yield from ((metric, "") for metric in _MEMORY + _OTHERS)


@dataclass(frozen=True)
class HostDump:
    """Samples of hosts up to `until` (UTC): `span` of them every `step`, the last `recent` every `recent_step`."""

    hosts: int
    until: datetime
    span: timedelta
    step: timedelta = timedelta(minutes=5)
    recent: timedelta = timedelta(hours=2)
    recent_step: timedelta = timedelta(seconds=15)

    @property
    def samples(self) -> int:
        """How many there are."""
        return self.hosts * len(list(host_series())) * len(self._times(0.0))

    def write(self, path: Path) -> None:
        """Write them, series by series."""
        choice = np.random.default_rng(3)
        with path.open("w") as file:
            for host in range(self.hosts):
                times = self._times(host / self.hosts * self.recent_step.total_seconds())
                stamps = [f" {at:.3f}\n" for at in times.tolist()]
                for metric, labels in host_series():
                    instance = f'instance="host{host}",job="{JOB}"'
                    name = f"{metric}{{{labels},{instance}}} " if labels else f"{metric}{{{instance}}} "
                    numbers = map(repr, _values(metric, times, choice).tolist())
                    file.write(name + name.join(map(str.__add__, numbers, stamps)))
            file.write("# EOF\n")

    def _times(self, offset: float) -> npt.NDArray[np.float64]:
        until, change = self.until.timestamp(), (self.until - self.recent).timestamp()
        early = np.arange((self.until - self.span).timestamp(), change, self.step.total_seconds())
        late = np.arange(change, until, self.recent_step.total_seconds())
        return np.concatenate([early, late]) + offset


def _values(metric: str, times: npt.NDArray[np.float64], choice: np.random.Generator) -> npt.NDArray[np.float64]:
    if metric in _CONSTANT:
        return np.full(len(times), 0.0 if metric.endswith(("readonly", "error")) else 1.0)
    if metric.endswith("_total"):
        return np.round(np.cumsum(np.diff(times, prepend=times[0]) * choice.uniform(0, 2, len(times))), 2)
    return np.round(1_000 + np.cumsum(choice.normal(0, 5, len(times))), 1)
