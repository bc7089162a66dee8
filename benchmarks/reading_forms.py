"""The benchmark of both forms: what the same ranges cost of open rows and of sealed ones.

Rollups of 2,000 series of 100 hosts, 28 hours of 1m and 32 days of 1h, written as rows; a copy of the database is
sealed. Every query runs in both, one after the other, so that a busy neighbour slows both.

    python benchmarks/reading_forms.py [--directory DIRECTORY] [--rounds 15] [--explain]

Needs the embedded servers (extra `up`), 2 GB and a minute. What was made in a directory stays there and is read again
the next time, with views and functions of this version; without one everything lives in a temporary directory.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from bench_installation import temporary_home
from figures import Connection, connected, rows, value
from form_data import METRIC, NEWEST, fill, seal_all

from aggregator.embedded.postgres import EmbeddedPostgres
from aggregator.embedded.wheels import postgres_binaries
from aggregator.storage import publish
from aggregator.storage.engine import Connection as StorageConnection
from aggregator.storage.engine import Database
from aggregator.storage.migrate import upgrade

#: The copy that is sealed.
_SEALED = "sealed"
_MINUTE, _HOUR, _DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
_PANEL = "time, instance, avg"
_END_SESSIONS = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = %(name)s AND usename = current_user AND pid <> pg_backend_pid()
"""


@dataclass(frozen=True)
class Times:
    """Milliseconds that the server spent, medians of all rounds; and the rows."""

    planning: float
    execution: float
    rows: int

    @property
    def total(self) -> float:
        """Planning and execution."""
        return self.planning + self.execution


def queries(until: datetime) -> dict[str, str]:
    """What is measured, by its name in the table."""
    found = {}
    for name, length, interval, columns in (
        ("2 h at 1m", 2 * _HOUR, _MINUTE, _PANEL),
        ("2 h at 1m, every column", 2 * _HOUR, _MINUTE, "*"),
        ("1 d at 1m", _DAY, _MINUTE, _PANEL),
        ("30 d at 1h", 30 * _DAY, _HOUR, _PANEL),
        ("12 h at 30m", 12 * _HOUR, 30 * _MINUTE, _PANEL),
        ("30 d at 6h", 30 * _DAY, 6 * _HOUR, _PANEL),
    ):
        for who, selector in (("one series", f'{METRIC}{{instance="host7"}}'), ("100 series", METRIC)):
            since, interval_ms = until - length, interval // timedelta(milliseconds=1)
            found[f"{who}, {name}"] = (
                f"SELECT {columns} FROM aggregator.metric_range('{selector}', '{since.isoformat()}',"  # noqa: S608 - written here
                f" '{until.isoformat()}', {interval_ms})"
            )
    return found


def measure(connections: Mapping[str, Connection], measured: Mapping[str, str], *, rounds: int) -> None:
    """Print a line for each query, with both forms beside each other."""
    print(f"{'server time in ms, median':36} {'rows':>7} {'open':>16} {'sealed':>16} {'ratio':>6}")
    for name, query in measured.items():
        found: dict[str, list[Times]] = {form: [] for form in connections}
        for number in range(rounds + 1):
            for form, connection in connections.items():
                plan = value(connection, f"EXPLAIN (ANALYZE, TIMING OFF, BUFFERS OFF, FORMAT json) {query}")[0]
                if number:
                    found[form].append(
                        Times(plan["Planning Time"], plan["Execution Time"], plan["Plan"]["Actual Rows"])
                    )
        both = {form: _middle(times) for form, times in found.items()}
        columns = "".join(f" {one.planning:6.2f} + {one.execution:7.2f}" for one in both.values())
        before, after = both.values()
        print(f"{name:36} {round(before.rows):7,}{columns} {after.total / before.total:6.2f}", flush=True)


def _middle(times: list[Times]) -> Times:
    return Times(
        statistics.median(one.planning for one in times),
        statistics.median(one.execution for one in times),
        times[0].rows,
    )


def differing(connections: Mapping[str, Connection], measured: Mapping[str, str]) -> int:
    """In how many of the queries the forms do not give the same rows with the same bits."""
    return sum(
        len({str(sorted(map(repr, rows(connection, query)))) for connection in connections.values()}) > 1
        for query in measured.values()
    )


def _run(directory: Path, *, rounds: int, explain: bool) -> None:
    note = directory / "until"
    with EmbeddedPostgres(directory / "postgres", binaries=postgres_binaries(), port=None, fsync=False) as server:
        sealed_url = urlsplit(server.url)._replace(path=f"/{_SEALED}").geturl()
        if not note.exists():
            until = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
            fill(server.url, directory, until)
            _copy(server.url)
            seal_all(sealed_url, until)
            note.write_text(until.isoformat())
        urls = {"open": server.url, "sealed": sealed_url}
        for url in urls.values():
            upgrade(url)
            database = Database.connect(url, application="benchmark")
            database.run(_renew_views)
            database.dispose()
        with connected(urls["open"]) as before, connected(urls["sealed"]) as after:
            connections = {"open": before, "sealed": after}
            measured = queries(datetime.fromisoformat(note.read_text()) - NEWEST)
            version = value(before, "SHOW server_version")
            print(f"load average {os.getloadavg()[0]:.1f}; PostgreSQL {version}")
            measure(connections, measured, rounds=rounds)
            print(f"{differing(connections, measured)} of {len(measured)} queries differ between the forms")
            if explain:
                for name, query in measured.items():
                    print(f"\n{name}")
                    for (line,) in rows(after, f"EXPLAIN (ANALYZE, BUFFERS) {query}"):
                        print(line)


def _renew_views(connection: StorageConnection) -> None:
    publish.lock(connection)
    publish.create_views(connection)


def _copy(url: str) -> None:
    name = urlsplit(url).path.removeprefix("/")
    with connected(urlsplit(url)._replace(path="/postgres").geturl()) as connection, connection.cursor() as cursor:
        cursor.execute(_END_SESSIONS, {"name": name})
        cursor.execute(f"CREATE DATABASE {_SEALED} TEMPLATE {name}")


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--directory", type=Path, help="where the databases are, or are to be made, and stay")
    parser.add_argument("--rounds", type=int, default=15, help="how often each query runs")
    parser.add_argument("--explain", action="store_true", help="print the plans of sealed rows, too")
    arguments = parser.parse_args()
    if arguments.directory is None:
        with temporary_home("aggregator-bench-") as home:
            _run(home, rounds=arguments.rounds, explain=arguments.explain)
    else:
        arguments.directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        _run(arguments.directory, rounds=arguments.rounds, explain=arguments.explain)


if __name__ == "__main__":
    main()
