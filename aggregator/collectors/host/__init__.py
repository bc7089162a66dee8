"""The collector of kind `host`: this machine, measured by psutil and /proc, named and labelled as by node_exporter."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import psutil
import structlog

from aggregator.collectors.host.disk import read_disks
from aggregator.collectors.host.filesystem import FileSystems
from aggregator.collectors.host.floor import CpuFloor
from aggregator.collectors.host.kernel import read_connections, read_open_files, read_pressure
from aggregator.collectors.host.memory import read_memory, read_paging
from aggregator.collectors.host.network import read_network, read_network_state
from aggregator.collectors.host.processor import Statistics, read_identity, read_load
from aggregator.collectors.outcome import REPORTED, failed, now
from aggregator.collectors.placing import Placer, Sample
from aggregator.collectors.protocol import Batch, Collected, Target

if TYPE_CHECKING:
    from pathlib import Path

    from aggregator.config.source_model import BaseSource

log = structlog.get_logger(__name__)

Part = Callable[[], Iterable[Sample]]


def host_parts(floor_path: Path | None = None) -> Mapping[str, Part]:
    """What a host is measured by, by the name under which a failing part is counted."""
    return MappingProxyType(
        {
            "stat": Statistics(CpuFloor(floor_path)).read,
            "load": read_load,
            "memory": read_memory,
            "paging": read_paging,
            "filesystem": FileSystems().read,
            "disk": read_disks,
            "network": read_network,
            "network_state": read_network_state,
            "open_files": read_open_files,
            "connections": read_connections,
            "pressure": read_pressure,
            "uname": read_identity,
        }
    )


class HostCollector:
    """Reads the machine that this process runs on.

    `floor_path` names a file (its folder must exist) through which the processes of a node share the processor times
    that they have given; without it two processes that collect in turn can make `iowait` seem to be reset.
    """

    def __init__(self, *, floor_path: Path | None = None, parts: Mapping[str, Part] | None = None) -> None:
        self._parts = host_parts(floor_path) if parts is None else parts
        self._placer = Placer(REPORTED)

    def collect(self, source: BaseSource, targets: Sequence[Target]) -> Iterator[Collected]:
        """Read this machine once for each target (there is one); a part that fails is counted and left out."""
        for target in targets:
            yield self._collect_one(source, target)

    def _collect_one(self, source: BaseSource, target: Target) -> Collected:
        started_at, started = now(), time.perf_counter()
        samples, rejected = self._read(source)
        duration = time.perf_counter() - started
        if not samples:
            error = "nothing of this machine can be read: " + ", ".join(rejected)
            return failed(target, started_at=started_at, duration_seconds=duration, reason="unreadable", error=error)
        placement = self._placer.place(source, target, tuple(sample.series for sample in samples))
        if placement.duplicates:
            rejected["duplicate"] = placement.duplicates
        reported = (1.0, duration, len(samples))
        batch = Batch(started_at, placement.keys, placement.values(reported, [sample.value for sample in samples]))
        return Collected(target, started_at, duration, (batch,), samples=len(placement.kept), rejected=rejected)

    def _read(self, source: BaseSource) -> tuple[list[Sample], dict[str, int]]:
        samples: list[Sample] = []
        rejected: dict[str, int] = {}
        for name, read in self._parts.items():
            try:
                samples += list(read())
            except (OSError, psutil.Error, ValueError, LookupError, NotImplementedError) as error:
                rejected[name] = 1
                log.warning("host_part_failed", source=source.name, part=name, error=str(error))
        return samples, rejected
