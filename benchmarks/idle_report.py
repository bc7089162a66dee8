"""The report of an idle installation: a row for each process, and their sums beside what was wanted."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from process_costs import OUTSIDE, Cost, ProcessCost
from rich.console import Console
from rich.table import Table

MOST_CPU_SHARE = 0.05
MOST_PSS_BYTES = 400_000_000
_MEGABYTE = 1_000_000
_COMMAND_WIDTH = 60

Processes = Mapping[int, ProcessCost]


def report(before: Processes, after: Processes, *, seconds: float) -> None:
    """Print what the processes have used between two looks, and hold at the second."""
    before, after = _inside(before), _inside(after)
    table = Table("part", "process", "CPU of one core", "PSS", title="idle")
    for pid, one in sorted(after.items(), key=lambda item: (item[1].part, item[0])):
        used = one.cost.cpu_seconds - (before[pid].cost.cpu_seconds if pid in before else 0)
        table.add_row(one.part, _short(one.command), f"{used / seconds:.2%}", _megabytes(one.cost.pss_bytes))
    _add_ended(table, before, after, seconds=seconds)
    table.add_section()
    for line in _sums(_sum(before.values()), _sum(after.values()), seconds):
        table.add_row(*line)
    Console(width=120).print(table)
    loads = " ".join(f"{load:.2f}" for load in os.getloadavg())
    print(f"measured for {seconds:.0f} s on {os.cpu_count()} cores; load average of the machine {loads}")


def _inside(processes: Processes) -> dict[int, ProcessCost]:
    return {pid: one for pid, one in processes.items() if one.part not in OUTSIDE}


def _add_ended(table: Table, before: Processes, after: Processes, *, seconds: float) -> None:
    """What ended processes had used before is now in their parents' times: taken off, or it would count twice."""
    ended = [one for pid, one in before.items() if pid not in after]
    if ended:
        used = sum(one.cost.cpu_seconds for one in ended)
        table.add_row("ended", f"{len(ended)} processes, before", f"{-used / seconds:.2%}", "")


def _sum(processes: Iterable[ProcessCost]) -> Cost:
    return sum((one.cost for one in processes), Cost())


def _sums(before: Cost, after: Cost, seconds: float) -> list[tuple[str, str, str, str]]:
    share = (after.cpu_seconds - before.cpu_seconds) / seconds
    return [
        ("all", f"{after.processes} processes", f"{share:.2%}", _megabytes(after.pss_bytes)),
        ("wanted", "", f"< {MOST_CPU_SHARE:.0%}", f"< {_megabytes(MOST_PSS_BYTES)}"),
    ]


def _short(command: str) -> str:
    """A command line without the directory of its program."""
    program, _, arguments = command.partition(" ")
    return f"{program.rpartition('/')[2]} {arguments}"[:_COMMAND_WIDTH].strip()


def _megabytes(size: float) -> str:
    return f"{size / _MEGABYTE:.0f} MB"
