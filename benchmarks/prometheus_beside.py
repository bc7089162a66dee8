"""A real Prometheus and this service scrape one target whose values are known; then their numbers are compared.

    python benchmarks/prometheus_beside.py --windows 10

prints the table of docs/compared-with-prometheus.md, and ends with 1 where numbers differ that must not. Needs a
`prometheus` on the PATH and the embedded servers (extra `up`). All listen on loopback, in temporary directories.
"""

from __future__ import annotations

import argparse
import math
import shutil
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from http import HTTPStatus

from bench_installation import installation, temporary_home
from beside import JOB, clean_windows, compared
from figures import Connection, connected, value
from prometheus_api import Prometheus, Span, phase_seconds
from stepping_target import Steps, serving

from aggregator.embedded.ports import LOOPBACK, free_port
from aggregator.embedded.process import end_process, start_process

PATIENCE_SECONDS = 120.0
#: So much longer than the windows take it goes on where the machine is too slow for clean ones.
LONGEST_SECONDS = 600.0
#: As long as a bucket of the finest tier that there is by default.
DEFAULT_WINDOW = 60
#: Scrapes keep this share of an interval away from its ends, where values change.
MARGIN = 0.15
_STOP_STEP = (signal.SIGTERM, timedelta(seconds=10))
_SCRAPES = """
global: {{scrape_interval: {interval}s, scrape_timeout: {timeout}s, external_labels: {{attempt: "{attempt}"}}}}
scrape_configs: [{{job_name: {job}, static_configs: [{{targets: ["{target}"]}}]}}]
"""
_SOURCE = """
[[sources]]
name = "{job}"
kind = "prometheus"
targets = ["http://{target}/metrics"]
interval = "{interval}s"
timeout = "{interval}s"

[[tiers]]
name = "{tier}"
step = "{window}s"
retention = "1d"
"""


def wait_until(holds: Callable[[], bool], what: str) -> None:
    """Wait for something that must become true soon."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise SystemExit(f"in vain waited until {what}")
        time.sleep(0.2)


@contextmanager
def prometheus(target: str, interval: int, attempt: int) -> Iterator[Prometheus]:
    """A Prometheus with this one target."""
    address = f"{LOOPBACK}:{free_port()}"
    binary = shutil.which("prometheus")
    if binary is None:
        raise SystemExit("there is no prometheus on the PATH")
    with temporary_home("prometheus-beside-") as home, (home / "prometheus.log").open("wb") as log:
        text = _SCRAPES.format(interval=interval, timeout=interval, attempt=attempt, job=JOB, target=target)
        (home / "prometheus.yml").write_text(text)
        paths = (f"--config.file={home / 'prometheus.yml'}", f"--storage.tsdb.path={home / 'tsdb'}")
        process = start_process(
            [binary, *paths, f"--web.listen-address={address}"],
            output=log,
            environment={"HOME": str(home)},
            parent_death_signal=signal.SIGTERM,
        )
        try:
            wait_until(lambda: _is_ready(address), "prometheus is ready")
            yield Prometheus(f"http://{address}")
        finally:
            end_process(process, _STOP_STEP)


def _is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/-/ready", timeout=5) as answer:
            return bool(answer.status == HTTPStatus.OK)
    except OSError:
        return False


@contextmanager
def well_placed_prometheus(target: str, interval: int) -> Iterator[Prometheus]:
    """A Prometheus that scrapes at an instant well inside its intervals; which one depends on its external labels."""
    for attempt in range(20):
        with prometheus(target, interval, attempt) as server:
            wait_until(lambda server=server: bool(server.samples("up", seconds=60)), "prometheus has scraped")
            phase = phase_seconds(server, interval)
            if MARGIN < phase / interval < 1 - MARGIN:
                yield server
                return
    raise SystemExit("no external label gives Prometheus an offset off the edges")


def main() -> None:
    """Read the command line, scrape for some windows, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--windows", type=int, default=10)
    parser.add_argument("--window", type=int, default=DEFAULT_WINDOW, help="seconds; a minute is a multiple of it")
    parser.add_argument("--interval", type=int, default=5, help="seconds; a sixth of a window is a multiple of it")
    arguments = parser.parse_args()
    sys.exit(run(arguments.windows, window=arguments.window, interval=arguments.interval))


def run(windows: int, *, window: int, interval: int) -> int:
    """Scrape until half of so many windows are clean, and one with a restart; then compare. Gives the exit code."""
    tier, steps = "1m" if window == DEFAULT_WINDOW else f"{window}s", Steps(window)
    with (
        serving(steps) as target,
        installation(_SOURCE.format(job=JOB, target=target, interval=interval, tier=tier, window=window)) as ours,
        well_placed_prometheus(target, interval) as theirs,
        connected(ours.database_url) as connection,
    ):
        wait_until(lambda: _has_samples(connection), "this service has scraped")
        # Both have scraped before it, so they know what is counted over its left edge.
        first = math.floor(time.time() / window) + 1
        while not any(steps.restarts_in(one) for one in range(first, first + windows)):
            first += 1
        count, deadline = windows, (first + windows) * window + LONGEST_SECONDS
        while True:
            span = Span(first * window, window, count, f"metrics_{tier}", interval)
            time.sleep(max(0.0, span.end - time.time()))
            wait_until(lambda span=span: _is_rolled_up(connection, span), "the last window is rolled up")
            clean = clean_windows(connection, theirs, span, margin=MARGIN * interval)
            is_enough = len(clean) >= max(1, windows // 2) and any(steps.restarts_in(one // window) for one in clean)
            if is_enough or time.time() > deadline:
                return max(report(connection, theirs, span, clean), int(not is_enough))
            count += 1


def _has_samples(connection: Connection) -> bool:
    return bool(value(connection, "SELECT EXISTS (SELECT FROM aggregator.samples WHERE job = %(job)s)", job=JOB))


def _is_rolled_up(connection: Connection, span: Span) -> bool:
    statement = (
        f"SELECT count(*) > 0 FROM aggregator.{span.view}"  # noqa: S608 - a tier of ours
        " WHERE job = %(job)s AND metric = 'up' AND time = to_timestamp(%(last)s)"
    )
    return bool(value(connection, statement, job=JOB, last=span.end - span.window))


def report(connection: Connection, theirs: Prometheus, span: Span, windows: set[int]) -> int:
    """Print the table of these windows; gives 1 where numbers differ that must not."""
    print(f"{len(windows)} of {span.count} windows of {span.window} s, in which neither missed a scrape or was slow\n")
    print(
        "| Prometheus | here | compared | equal | largest difference | because |\n| --- | --- | --- | --- | --- | --- |"
    )
    found = list(compared(connection, theirs, span, windows))
    for row in found:
        print(row)
    return int(not all(row.is_as_promised for row in found))


if __name__ == "__main__":
    main()
