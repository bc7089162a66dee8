"""The dashboard *Host* on the database of the reading benchmark: every query of it, as Grafana sends it.

    python benchmarks/host_dashboard.py [--directory DIRECTORY] [--days 30] [--hours 3] [--hosts 1]

Prints the server's time for each query, and for all of them one after another, as the reader. See reading.py.
"""

from __future__ import annotations

import argparse
import os
from datetime import timedelta
from pathlib import Path

from bench_installation import temporary_home
from figures import connected
from host_dump import JOB
from reading import filled, measure

from tests.dashboards.files import host_sql

ROUNDS = 9


def run(directory: Path, *, days: int, hours: float, hosts: int) -> None:
    """Measure in a directory's database; no hosts means all of them."""
    instances = tuple(f"host{number}" for number in range(hosts))
    with filled(directory, days=days) as made, connected(made.reader_url) as reading:
        start = made.until - timedelta(hours=hours)
        found = measure(reading, host_sql(instances, job=JOB, start=start, finish=made.until), rounds=ROUNDS)
    print(f"load average {os.getloadavg()[0]:.1f}; {hours:g} h of {hosts or 'all'} of 100 hosts")
    print(f"{'query (server time, median)':40} {'rows':>7} {'plan ms':>8} {'run ms':>8} {'all ms':>8}")
    for name, times in found.items():
        print(f"{name:40} {times.rows:7,} {times.planning:8.2f} {times.execution:8.2f} {times.total:8.2f}")
    print(f"{len(found)} queries, one after another: {sum(times.total for times in found.values()):.0f} ms")


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--directory", type=Path, help="where the database is, or is to be made, and stays")
    parser.add_argument("--days", type=int, default=30, help="how many days of samples are made")
    parser.add_argument("--hours", type=float, default=3, help="what the dashboard shows")
    parser.add_argument("--hosts", type=int, default=1, help="how many machines are chosen; 0 is all")
    given = parser.parse_args()
    if given.directory is None:
        with temporary_home("aggregator-bench-") as home:
            run(home, days=given.days, hours=given.hours, hosts=given.hosts)
    else:
        given.directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        run(given.directory, days=given.days, hours=given.hours, hosts=given.hosts)


if __name__ == "__main__":
    main()
