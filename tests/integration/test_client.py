"""The client that applications import: what it loads, the connections that it keeps, and what it does without Redis."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis

from aggregator import client
from aggregator.client import connections, read
from aggregator.client.connections import TIMEOUT_SECONDS, shared
from aggregator.client.keys import summary_key
from aggregator.embedded.process import wait_until
from aggregator.embedded.valkey import EmbeddedValkey
from aggregator.embedded.wheels import valkey_binary
from aggregator.errors import ServerUnreachableError, SummaryNotReadyError, UsageError

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("celery", "kombu", "numpy", "sqlalchemy", "psycopg2", "pydantic", "structlog", "aggregator.config")


def document(version: int = 1, *, computed_at: datetime | None = None) -> str:
    now = (computed_at or datetime.now(UTC)).isoformat()
    return json.dumps(
        {
            "version": version,
            "name": "busy",
            "value": [{"instance": "a", "value": 0.5}],
            "as_of": now,
            "computed_at": now,
            "tier": "1m",
            "completeness": 1.0,
            "is_final": True,
            "refresh_seconds": 30,
            "stale": False,
            "error": None,
            "failed_at": None,
        }
    )


def keep(url: str, text: str) -> None:
    with closing(redis.Redis.from_url(url)) as cache:
        cache.set(summary_key("aggregator", "busy"), text)


@pytest.fixture
def own_server(open_directory: Path) -> Iterator[EmbeddedValkey]:
    """A server that a test may kill."""
    with EmbeddedValkey(open_directory / "client", binary=valkey_binary()) as server:
        keep(server.cache_url, document())
        yield server


def test_importing_the_client_loads_nothing_that_an_application_may_lack() -> None:
    code = f"import sys, aggregator.client; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_process_keeps_its_connection(cache_url: str) -> None:
    keep(cache_url, document())
    shared(cache_url).connection_pool.disconnect()
    with closing(redis.Redis.from_url(cache_url)) as cache:
        read("busy", url=cache_url)
        before = cache.info("stats")["total_connections_received"]  # type: ignore[index] # not async
        for _ in range(50):
            read("busy", url=cache_url)
        assert cache.info("stats")["total_connections_received"] == before  # type: ignore[index] # as above


def test_any_number_of_threads_read_at_once(cache_url: str) -> None:
    keep(cache_url, document())
    found: list[object] = []

    def reader() -> None:
        found.extend(read("busy", url=cache_url).value for _ in range(20))

    threads = [threading.Thread(target=reader) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [({"instance": "a", "value": 0.5},)] * 600


def forged(**changes: object) -> str:
    return json.dumps({**json.loads(document()), **changes})


@pytest.mark.parametrize(
    "garbage",
    [
        "", "{", "null", "[]", "7", '"text"', "{}", "[" * 200_000, "1e999", forged(value="rows"), forged(value=[1]),
        forged(as_of="yesterday"), forged(computed_at="2026-01-01T00:00:00"), forged(version="new"),
        forged(version=float("inf")), forged(refresh_seconds=None), forged(completeness=[1]), forged(failed_at=5),
    ],
    ids=range(18),
)  # fmt: skip
def test_what_somebody_else_has_put_into_the_cache_is_not_given_to_anybody(cache_url: str, garbage: str) -> None:
    keep(cache_url, garbage)
    with pytest.raises(SummaryNotReadyError):
        read("busy", url=cache_url)
    keep(cache_url, document())
    read("busy", url=cache_url, fallback=timedelta(minutes=1))
    keep(cache_url, garbage)
    assert read("busy", url=cache_url, fallback=timedelta(minutes=1)).version == 1


FORKING = """
import os, sys
from aggregator.client import read
read("busy")
children = []
for _ in range(8):
    child = os.fork()
    if child == 0:
        os._exit(0 if all(read("busy").version == 1 for _ in range(200)) else 1)
    children.append(child)
assert all(read("busy").version == 1 for _ in range(200))
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


def test_a_process_may_fork_after_it_has_read(cache_url: str) -> None:
    keep(cache_url, document())
    environment = {**os.environ, client.CACHE_URL_VARIABLE: cache_url, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_url_comes_from_a_file_too(cache_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(cache_url, document())
    (tmp_path / "url").write_text(f"{cache_url}\n")
    monkeypatch.delenv(client.CACHE_URL_VARIABLE, raising=False)
    monkeypatch.setenv(f"{client.CACHE_URL_VARIABLE}_FILE", str(tmp_path / "url"))
    assert read("busy").version == 1
    monkeypatch.setenv(f"{client.CACHE_URL_VARIABLE}_FILE", str(tmp_path / "none"))
    with pytest.raises(UsageError, match="_FILE"):
        read("busy")


def test_without_redis_the_last_value_is_given_to_who_wants_it_and_an_error_to_others(
    own_server: EmbeddedValkey,
) -> None:
    url, hour = own_server.cache_url, timedelta(hours=1)
    first = read("busy", url=url, fallback=hour)
    assert own_server.process_id is not None
    os.kill(own_server.process_id, signal.SIGKILL)
    assert wait_until(lambda: not own_server.is_alive(), timedelta(seconds=60))
    assert read("busy", url=url, fallback=hour) == first
    with pytest.raises(ServerUnreachableError, match="AGGREGATOR_CACHE_URL"):
        read("busy", url=url)
    with pytest.raises(ServerUnreachableError):
        read("busy", url=url, fallback=timedelta(0))
    with pytest.raises(ServerUnreachableError):
        read("other", url=url, fallback=hour)
    own_server.start()
    with closing(redis.Redis.from_url(url)) as cache:
        cache.flushdb()
    assert read("busy", url=url, fallback=hour) == first
    with pytest.raises(SummaryNotReadyError):
        read("busy", url=url)
    keep(url, document(2))
    assert read("busy", url=url, fallback=hour).version == 2


def test_a_restart_of_redis_between_two_reads_is_not_noticed(own_server: EmbeddedValkey) -> None:
    assert read("busy", url=own_server.cache_url).version == 1
    own_server.stop()
    own_server.start()
    assert read("busy", url=own_server.cache_url).version == 1


def test_a_redis_that_hangs_holds_nobody_up(own_server: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "TIMEOUT_SECONDS", TIMEOUT_SECONDS)
    monkeypatch.setattr(connections, "_shared", {})
    monkeypatch.setattr(connections, "_kept", connections._Kept())
    read("busy", url=own_server.cache_url)
    assert own_server.process_id is not None
    os.kill(own_server.process_id, signal.SIGSTOP)
    started = time.monotonic()
    try:
        with pytest.raises(ServerUnreachableError):
            read("busy", url=own_server.cache_url)
    finally:
        os.kill(own_server.process_id, signal.SIGCONT)
    assert time.monotonic() - started < 30 * TIMEOUT_SECONDS


def test_a_read_that_was_cut_short_leaves_no_answer_for_the_next(own_server: EmbeddedValkey) -> None:
    """As a web server's time limit does it: with an exception in the middle."""

    class CutShortError(BaseException):
        pass

    def cut_short(_signal: int, _frame: object) -> None:
        raise CutShortError

    with closing(redis.Redis.from_url(own_server.cache_url)) as cache:
        cache.set(summary_key("aggregator", "other"), document(7))
    read("busy", url=own_server.cache_url)
    assert own_server.process_id is not None
    before = signal.signal(signal.SIGALRM, cut_short)
    os.kill(own_server.process_id, signal.SIGSTOP)
    try:
        with pytest.raises(CutShortError):  # noqa: PT012 - the alarm may come before the read
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            read("busy", url=own_server.cache_url)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        os.kill(own_server.process_id, signal.SIGCONT)
    assert read("other", url=own_server.cache_url).version == 7


def test_a_value_is_stale_after_three_missed_refreshes_or_a_failed_one(cache_url: str) -> None:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    keep(cache_url, document(computed_at=now))
    found = read("busy", url=cache_url)
    assert not found.is_stale(now=now + timedelta(seconds=89))
    assert found.is_stale(now=now + timedelta(seconds=90))
    failed = json.loads(document(computed_at=now)) | {"stale": True, "error": "e", "failed_at": now.isoformat()}
    keep(cache_url, json.dumps(failed))
    found = read("busy", url=cache_url)
    assert found.is_stale(now=now)
    assert (found.error, found.failed_at) == ("e", now)
    assert found.as_document(now=now) == failed | {"refresh_seconds": 30.0}
