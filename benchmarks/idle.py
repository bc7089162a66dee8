"""The idle benchmark: what `aggregator up` costs as it comes, observing this machine and itself, asked by nobody.

    python benchmarks/idle.py --seconds 120

Needs the embedded servers (extra `up`). Everything listens on free ports and lives in a temporary directory.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench_installation import environment, logged_errors, process, temporary_home
from figures import connected, has_tiers, is_settled, newest_complete_bucket
from idle_report import report
from process_costs import ProcessCost, costs_by_process

from aggregator.config.servers import servers_file
from aggregator.embedded.ports import free_port

WARM_UP_PATIENCE = timedelta(minutes=5)


@contextmanager
def everything(home: Path, *, on_terminal: bool) -> Iterator[Path]:
    """`aggregator up` with nothing configured but free ports; gives its data directory."""
    variables = environment(home, AGGREGATOR_POSTGRES_PORT=str(free_port()), AGGREGATOR_LOG_LEVEL="info")
    with process("up", ("-m", "aggregator", "up"), home=home, variables=variables, on_terminal=on_terminal):
        yield Path(variables["AGGREGATOR_DATA_DIR"])


def wait_until_warm(data_dir: Path) -> None:
    """Wait until a whole minute of every series has been rolled up: by then every process has done all that it does."""
    began = datetime.now(UTC)
    while not is_warm(data_dir, began=began):
        if datetime.now(UTC) > began + WARM_UP_PATIENCE:
            raise SystemExit("\n".join(["no rollups in time; logged:", *logged_errors(data_dir / "log")]))
        time.sleep(1)


def is_warm(data_dir: Path, *, began: datetime) -> bool:
    """Whether every series has its place and a rollup of a minute that began after `began`."""
    with suppress(FileNotFoundError):  # the servers are not up yet
        urls = json.loads(servers_file(data_dir).read_text(encoding="utf-8"))
        with connected(urls["database_url"]) as connection:
            newest = newest_complete_bucket(connection) if has_tiers(connection) and is_settled(connection) else None
            return newest is not None and newest >= began
    return False


def costs_now() -> dict[int, ProcessCost]:
    """The costs of this process, and of all below it."""
    return costs_by_process(os.getpid(), root_part="benchmark")


def measure(data_dir: Path, *, seconds: float) -> None:
    """Warm up, sit still, report."""
    began = time.monotonic()
    wait_until_warm(data_dir)
    print(f"warm after {time.monotonic() - began:.0f} s", flush=True)
    started, before = time.monotonic(), costs_now()
    time.sleep(seconds)
    after = costs_now()
    report(before, after, seconds=time.monotonic() - started)
    for line in logged_errors(data_dir / "log")[:20]:
        print(line)


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--terminal", action="store_true", help="with the live table, drawn on a pseudo-terminal")
    arguments = parser.parse_args()
    with (
        temporary_home("aggregator-idle-") as home,
        everything(home, on_terminal=arguments.terminal) as data_dir,
    ):
        measure(data_dir, seconds=arguments.seconds)


if __name__ == "__main__":
    main()
