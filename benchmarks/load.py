"""The load benchmark: 100 targets x 1,000 series at 15 s on one worker.

Are all slots met, does the lag stay where it is, and what does a sample cost?

    python benchmarks/load.py --minutes 30

Needs the embedded servers (extra `up`). Everything listens on free ports and lives in a temporary directory.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from datetime import timedelta

from bench_installation import Installation, exposition_server, installation
from figures import Connection, connected, is_settled
from load_report import report
from observations import Moment, Watched
from process_costs import Cost, costs

INTERVAL = timedelta(seconds=15)
WARM_UP_PATIENCE = timedelta(minutes=5)
PROGRESS_SECONDS = 60.0


def config(urls: list[str]) -> str:
    """One source with these targets; the rest is as everybody has it."""
    return f"""
        [[sources]]
        name = "node"
        kind = "prometheus"
        targets = {json.dumps(urls)}
        interval = "{INTERVAL.total_seconds():g}s"
        """


def warm_up(connection: Connection) -> None:
    """Wait until every series has its place and the first buckets have been rolled up."""
    deadline = time.monotonic() + WARM_UP_PATIENCE.total_seconds()
    while not is_settled(connection):
        if time.monotonic() > deadline:
            raise SystemExit("the targets' series found no places in time; see the logs")
        time.sleep(1)


def watch(connection: Connection, started: Moment, *, minutes: float) -> Watched:
    """Look once a second, say something once a minute."""
    watched = Watched()
    for second in _seconds(minutes * 60):
        watched.look(connection)
        if second % PROGRESS_SECONDS == 0:
            found = costs(os.getpid(), root_part="benchmark")
            watched.remember(found)
            _say_progress(second, watched, started, found)
    return watched


def _seconds(duration: float) -> Iterator[int]:
    """Count seconds of the clock, and skip those that took too long."""
    started = time.monotonic()
    while (passed := time.monotonic() - started) < duration:
        yield int(passed)
        time.sleep(max(int(passed) + 1 - (time.monotonic() - started), 0))


def _say_progress(second: int, watched: Watched, started: Moment, found: dict[str, Cost]) -> None:
    passed = max(time.monotonic() - started.monotonic_seconds, 1)
    shares = {
        part: (cost.cpu_seconds - started.costs.get(part, Cost()).cpu_seconds) / passed for part, cost in found.items()
    }
    lag = max(watched.lag_by_second[-int(PROGRESS_SECONDS) :])
    said = "  ".join(f"{part} {share:.1%}" for part, share in shares.items())
    print(f"{second // 60:3d} min  lag {lag:4.1f} s  {said}", flush=True)


def run(installed: Installation, *, minutes: float) -> None:
    """Warm up, watch, report."""
    with connected(installed.database_url) as connection:
        began = time.monotonic()
        warm_up(connection)
        print(f"warm after {time.monotonic() - began:.0f} s", flush=True)
        started = Moment.now(connection)
        watched = watch(connection, started, minutes=minutes)
        report(connection, started, Moment.now(connection), watched, interval=INTERVAL)
    for line in installed.errors()[:20]:
        print(line)


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--targets", type=int, default=100)
    parser.add_argument("--series", type=int, default=1_000, help="of each target")
    arguments = parser.parse_args()
    with (
        exposition_server(targets=arguments.targets, series=arguments.series) as urls,
        installation(config(urls)) as installed,
    ):
        run(installed, minutes=arguments.minutes)


if __name__ == "__main__":
    main()
