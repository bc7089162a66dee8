"""How many samples a second an import reads, stores and rolls up, and the most memory that it takes.

Run it on a quiet machine: `python benchmarks/import.py [--small]`. It needs the embedded servers (extra `up`) and makes
two dumps, series by series as Prometheus does: dense (10 targets with 500 series each, 6 h at 15 s) and sparse (4 with
100 series each, 30 days at 5 m); `--small` takes a tenth of the series.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path

from bench_installation import temporary_home
from importing import whole

from aggregator.config.source_model import Limits
from aggregator.embedded.postgres import EmbeddedPostgres
from aggregator.embedded.wheels import postgres_binaries
from aggregator.exposition.history import Damage
from aggregator.stages.collect.spool import SpoolWriter
from aggregator.stages.collect.spool_file import HistoryFile
from aggregator.stages.collect.spooling import Spooling

_MEGABYTE = 1_000_000
#: The tenth of the series that `--small` takes.
_SMALL = 10


@dataclass(frozen=True)
class Dump:
    """The shape of a dump."""

    name: str
    targets: int
    series: int
    span: timedelta
    step: timedelta

    @property
    def samples(self) -> int:
        """How many samples it has."""
        return self.targets * self.series * (self.span // self.step)

    def write(self, path: Path) -> None:
        """Write it, series by series: half of them counters, values and times as a scrape gives them."""
        choice = random.Random(1)
        begin = datetime.now(UTC).timestamp() // 3_600 * 3_600 - self.span.total_seconds() - 3_600
        with path.open("w") as file:
            for target in range(self.targets):
                for series in range(self.series):
                    file.write(self._series(target, series, begin + target / 10, choice))
            file.write("# EOF\n")

    def _series(self, target: int, series: int, begin: float, choice: random.Random) -> str:
        metric = ("node_cpu_seconds_total", "node_memory_used_bytes")[series % 2]
        name = f'{metric}{{cpu="{series // 2}",instance="10.0.0.{target}:9100",job="node",mode="idle"}}'
        value, step, lines = 1e6 * choice.random(), self.step.total_seconds(), []
        for count in range(self.span // self.step):
            value += 15 * choice.random()
            lines.append(f"{name} {value:.12g} {begin + count * step:.3f}\n")
        return "".join(lines)


def refuse(damage: Damage) -> None:
    """Raises AssertionError: a dump of ours has no damage."""
    raise AssertionError(damage)


def spool(path: Path, _url: str) -> None:
    """The first phase alone."""
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        writer = SpoolWriter.go_on(Path(directory), source=None)
        file = HistoryFile.of(str(path), None)
        Spooling(file, writer, Limits(), refuse, lambda _: None).run(lambda: datetime.now(UTC))


def measured(work: Callable[[Path, str], None], path: Path, url: str) -> tuple[float, float, float]:
    """Seconds by the clock, seconds of CPU and the most memory (MB) of a process of its own that does the work."""
    context = get_context("spawn")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(work, path, url, theirs))
    process.start()
    figures: tuple[float, float, float] = mine.recv()
    process.join()
    return figures


def _measure(work: Callable[[Path, str], None], path: Path, url: str, answer: object) -> None:
    started, cpu = time.perf_counter(), time.process_time()
    work(path, url)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1_024 / _MEGABYTE
    answer.send((seconds, cpu, peak))  # type: ignore[attr-defined] # multiprocessing's connection


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--small", action="store_true", help="a tenth of the series")
    divisor = _SMALL if arguments.parse_args().small else 1
    dumps = (
        Dump("dense", 10, 500 // divisor, timedelta(hours=6), timedelta(seconds=15)),
        Dump("sparse", 4, 100 // divisor, timedelta(days=30), timedelta(minutes=5)),
    )
    print(f"load average {os.getloadavg()[0]:.1f}")
    for dump in dumps:
        with temporary_home("aggregator-bench-") as home:
            path = home / f"{dump.name}.om"
            dump.write(path)
            with EmbeddedPostgres(home / "pg", binaries=postgres_binaries(), port=None, fsync=True) as server:
                for name, work in (("spool", spool), ("spool, store and roll up", whole)):
                    seconds, cpu, peak = measured(work, path, server.url)
                    print(
                        f"{dump.name}, {dump.samples:,} samples: {name}: {dump.samples / seconds:,.0f} samples/s,"
                        f" {cpu:.1f} of {seconds:.1f} s on the CPU, {peak:.0f} MB"
                    )


if __name__ == "__main__":
    main()
