"""What the processes of an installation cost: CPU seconds and memory, by part (worker, postgres, ...)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import psutil

#: A part by what stands in its processes' command lines; the first that fits. Others belong to their parent's part.
_PARTS = (
    ("exposition server", "exposition_server.py"),
    ("exporter", "aggregator.serving.exporter"),
    ("worker", "celery -A aggregator worker"),
    ("beat", "celery -A aggregator beat"),
    ("web", "aggregator web"),
    ("up", "aggregator up"),
    ("postgres", "postgres"),
    ("valkey", "valkey"),
)
#: The processes that ask, not those that are asked.
OUTSIDE = ("exposition server", "benchmark")


@dataclass(frozen=True)
class Cost:
    """What a part has used and holds: seconds of CPU since its start, proportional memory (PSS), processes."""

    cpu_seconds: float = 0.0
    pss_bytes: int = 0
    processes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.cpu_seconds + other.cpu_seconds,
            self.pss_bytes + other.pss_bytes,
            self.processes + other.processes,
        )


@dataclass(frozen=True)
class ProcessCost:
    """One process: its part, its command line, and its own cost, with that of its children that have ended."""

    part: str
    command: str
    cost: Cost


def costs(root_pid: int, *, root_part: str) -> dict[str, Cost]:
    """The costs of a process and all below it, by part. Reading the memory takes milliseconds a process."""
    return by_part(costs_by_process(root_pid, root_part=root_part).values())


def by_part(processes: Iterable[ProcessCost]) -> dict[str, Cost]:
    """The sums of the parts."""
    found: dict[str, Cost] = {}
    for one in processes:
        found[one.part] = found.get(one.part, Cost()) + one.cost
    return found


def costs_by_process(root_pid: int, *, root_part: str) -> dict[int, ProcessCost]:
    """The cost of a process and of each one below it, by process id."""
    found: dict[int, ProcessCost] = {}
    with suppress(psutil.NoSuchProcess):
        for part, process in _tree(psutil.Process(root_pid), root_part):
            with suppress(psutil.Error):
                cost = _cost(process, with_children=process.pid != root_pid)
                found[process.pid] = ProcessCost(part, " ".join(process.cmdline()), cost)
    return found


def _tree(process: psutil.Process, part: str) -> Iterator[tuple[str, psutil.Process]]:
    yield part, process
    with suppress(psutil.Error):
        for child in process.children():
            yield from _tree(child, _part(child, otherwise=part))


def _part(process: psutil.Process, *, otherwise: str) -> str:
    try:
        line = " ".join(process.cmdline())
    except psutil.Error:
        return otherwise
    return next((part for part, mark in _PARTS if mark in line), otherwise)


def _cost(process: psutil.Process, *, with_children: bool) -> Cost:
    """Children that have ended are in their parent's times; those of the root may have been anything."""
    times = process.cpu_times()
    seconds = times.user + times.system
    if with_children:
        seconds += times.children_user + times.children_system
    return Cost(seconds, process.memory_full_info().pss, 1)
