"""The summaries benchmark: what it costs to read one, from Python and through the Flask example.

    python benchmarks/summaries.py

`client.read` over loopback TCP; requests a second of docs/examples/flask_app.py on one core, loaded from another; and
how long its requests take while a summary's query runs for 3 s, and while its database is stopped.

Needs the embedded servers (extra `up`) and Flask (`make` installs both). Takes half a minute.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
from bench_installation import CHECKOUT, temporary_home

from aggregator import client
from aggregator.config.load import load_settings
from aggregator.config.model import Summary
from aggregator.embedded.ports import LOOPBACK, free_port
from aggregator.embedded.postgres import EmbeddedPostgres
from aggregator.embedded.process import wait_until
from aggregator.embedded.wheels import postgres_binaries, valkey_binary
from aggregator.stages.summarize import Publication, Summarize
from aggregator.storage.bootstrap import bring_up
from aggregator.storage.engine import Database

READS = 20_000
REQUESTS = 10_000
CONNECTIONS = 4
SLOW_SECONDS = 3
SLOW = Summary(
    name="slow",
    sql=f"SELECT 'host' || n AS instance, n / 7.0 AS value, pg_sleep({SLOW_SECONDS / 10})::text AS slept"  # noqa: S608 - a number
    " FROM generate_series(1, 10) AS n",
)
START_PATIENCE = timedelta(seconds=20)


def percentile(durations: Sequence[float], share: float) -> float:
    """The duration that this share of them does not exceed."""
    return sorted(durations)[min(int(len(durations) * share), len(durations) - 1)]


def shown(durations: Sequence[float]) -> str:
    """Median, p99 and the longest, in milliseconds."""
    median, p99 = statistics.median(durations), percentile(durations, 0.99)
    return f"median {median * 1e3:.2f} ms, p99 {p99 * 1e3:.2f} ms, longest {max(durations) * 1e3:.1f} ms"


def timed(work: Callable[[], object], *, count: int) -> list[float]:
    """How long each of so many calls took, in seconds."""
    durations = []
    for _ in range(count):
        started = time.perf_counter()
        work()
        durations.append(time.perf_counter() - started)
    return durations


@contextmanager
def cache(home: Path) -> Iterator[str]:
    """A Valkey on a port of the loopback address; gives its URL."""
    port = free_port()
    with (home / "cache.log").open("ab") as log:
        arguments = [str(valkey_binary()), "--port", str(port), "--bind", LOOPBACK, "--save", "", "--dir", str(home)]
        process = subprocess.Popen(arguments, stdout=log, stderr=log)
        try:
            wait_for_port(port)
            yield f"redis://{LOOPBACK}:{port}/0"
        finally:
            process.terminate()
            process.wait(timeout=10)


def wait_for_port(port: int) -> None:
    """Wait until somebody listens there."""

    def answers() -> bool:
        try:
            socket.create_connection((LOOPBACK, port), timeout=1).close()
        except OSError:
            return False
        return True

    if not wait_until(answers, START_PATIENCE):
        raise SystemExit(f"nothing listens on port {port}")


@contextmanager
def flask_app(cache_url: str, home: Path, *, cores: set[int], threads: int) -> Iterator[tuple[int, psutil.Process]]:
    """The example, served by waitress on some cores; gives its port and its process."""
    port = free_port()
    with (home / "flask.log").open("ab") as log:
        # In our session: of one of its own the scheduler would make a group, which a busy machine lets wait.
        process = subprocess.Popen(
            [sys.executable, "-m", "waitress", f"--threads={threads}", f"--listen={LOOPBACK}:{port}", "flask_app:app"],
            stdout=log,
            stderr=log,
            env={**os.environ, client.CACHE_URL_VARIABLE: cache_url},
            cwd=CHECKOUT / "docs" / "examples",
        )
        os.sched_setaffinity(process.pid, cores)  # before it has made its threads, which inherit it
        try:
            wait_for_port(port)
            yield port, psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(timeout=10)


class Connection:
    """A browser's kept connection, so lean that it costs the load's core little."""

    def __init__(self, port: int, path: str) -> None:
        self._socket = socket.create_connection((LOOPBACK, port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()

    def get(self) -> None:
        """One request and all of its answer."""
        self._socket.sendall(self._request)
        received = self._socket.recv(65_536)
        head, _, body = received.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"the example answered {head.decode()}: {body.decode()}")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        while len(body) < length:
            body += self._socket.recv(65_536)

    def close(self) -> None:
        """Close it."""
        self._socket.close()


def load(port: int, *, requests: int, connections: int) -> float:
    """Send requests over some connections at once; gives how many seconds it took."""

    def send() -> None:
        with closing(Connection(port, "/api/slow")) as connection:
            for _ in range(requests // connections):
                connection.get()

    threads = [threading.Thread(target=send) for _ in range(connections)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - started


def cpu_seconds(process: psutil.Process) -> float:
    """What a process has used so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


def measure_flask(cache_url: str, home: Path, *, threads: int) -> None:
    """Requests a second on one core."""
    served, loading = ({0}, {1}) if (os.cpu_count() or 1) > 1 else ({0}, {0})
    before = os.sched_getaffinity(0)
    with flask_app(cache_url, home, cores=served, threads=threads) as (port, process):
        os.sched_setaffinity(0, loading)
        load(port, requests=500, connections=CONNECTIONS)
        used = cpu_seconds(process)
        seconds = load(port, requests=REQUESTS, connections=CONNECTIONS)
        used = cpu_seconds(process) - used
        os.sched_setaffinity(0, before)
    print(
        f"Flask example, one core, {CONNECTIONS} connections: {REQUESTS / seconds:,.0f} requests/s;"
        f" {REQUESTS / used:,.0f} for each second of CPU that it got"
    )


def until(stop: Callable[[], bool], port: int) -> list[float]:
    """How long each request over one connection took until then."""
    durations = []
    with closing(Connection(port, "/api/slow")) as connection:
        while not stop():
            durations += timed(connection.get, count=10)
    return durations


def measure_slow_query(
    stage: Summarize, database: EmbeddedPostgres, cache_url: str, home: Path, *, threads: int
) -> None:
    """Requests while the summary's query runs, and while its database is stopped."""
    with flask_app(cache_url, home, cores=os.sched_getaffinity(0), threads=threads) as (port, _):
        refresh = threading.Thread(target=lambda: stage.run(clock=lambda: datetime.now(UTC)))
        refresh.start()
        durations = until(lambda: not refresh.is_alive(), port)
        print(f"requests while the query runs for {SLOW_SECONDS} s: {len(durations):,}, {shown(durations)}")
        stage.database.dispose()
        database.stop()
        ends_at = time.monotonic() + SLOW_SECONDS
        durations = until(lambda: time.monotonic() > ends_at, port)
        print(f"requests while the database is stopped: {len(durations):,}, {shown(durations)}")


def main() -> None:
    """Measure all three."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=4, help="of waitress, which takes 4 unless told")
    threads = parser.parse_args().threads
    with temporary_home("aggregator-summaries-") as home, cache(home) as cache_url:
        database = EmbeddedPostgres(home / "pg", binaries=postgres_binaries(), port=None, fsync=False)
        with database:
            settings = load_settings(environment={"HOME": str(home), "AGGREGATOR_NODE": "bench"})
            bring_up(database.url, settings.model_copy(update={"summaries": (SLOW,)}), now=datetime.now(UTC))
            publication = Publication.at(cache_url, namespace="aggregator")
            connected = Database.connect(database.url, application="benchmark")
            stage = Summarize(connected, publication, "bench", own_url=database.url)
            stage.run(clock=lambda: datetime.now(UTC))
            print("load average {:.1f}, {:.1f}, {:.1f}".format(*os.getloadavg()))
            print(f"client.read: {shown(timed(lambda: client.read('slow', url=cache_url), count=READS))}")
            measure_flask(cache_url, home, threads=threads)
            measure_slow_query(stage, database, cache_url, home, threads=threads)


if __name__ == "__main__":
    main()
