"""PostgreSQL that is gone, or hangs, is told by `/metrics` within a second, while Prometheus goes on asking."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import psutil
import psycopg2
import pytest

from aggregator.embedded.postgres import EmbeddedPostgres
from aggregator.embedded.wheels import postgres_binaries
from aggregator.serving import observer
from aggregator.serving.observer import (
    DATABASE_DOWN_AFTER_SECONDS,
    DATABASE_KEPT_SECONDS,
    KEPT_SECONDS,
    Addresses,
    Observer,
)
from aggregator.storage.migrate import upgrade
from tests.integration.serving.test_web import Site, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

#: What the answer may take beside what is waited for, on a machine that has other things to do.
SLACK_SECONDS = 10.0
PATIENCE_SECONDS = 60.0


@pytest.fixture(scope="module", autouse=True)
def servers_may_be_slow() -> None:
    """They may not: here the limits are those of the product."""


@pytest.fixture(scope="module")
def server(open_directory: Path) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(open_directory / "down", binaries=postgres_binaries(), port=None, fsync=False) as started:
        upgrade(started.url)
        yield started


@pytest.fixture
def site(server: EmbeddedPostgres) -> Iterator[Site]:
    with serving(Addresses(server.url)) as started:
        until(started, is_up=True)
        yield started


def until(site: Site, *, is_up: bool) -> float:
    """Seconds until an answer said so."""
    begun = time.monotonic()
    while site.metrics()["database_up", ()] != is_up:
        assert time.monotonic() < begun + PATIENCE_SECONDS
        threading.Event().wait(0.02)
    return time.monotonic() - begun


@contextmanager
def stopped(server: EmbeddedPostgres) -> Iterator[None]:
    server.stop()
    try:
        yield
    finally:
        server.start()


@contextmanager
def frozen(server: EmbeddedPostgres) -> Iterator[None]:
    """The postmaster and all its children stand still, as on a machine whose disk hangs."""
    assert server.process_id
    postmaster = psutil.Process(server.process_id)
    try:
        send(signal.SIGSTOP, postmaster)  # and no child is born from here on
        send(signal.SIGSTOP, *postmaster.children(recursive=True))
        yield
    finally:
        send(signal.SIGCONT, postmaster, *postmaster.children(recursive=True))


def send(number: signal.Signals, *processes: psutil.Process) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)


@pytest.mark.parametrize("fault", [stopped, frozen])
def test_postgresql_that_does_not_answer_is_told_within_a_second_and_so_is_its_return(
    site: Site, server: EmbeddedPostgres, fault: Callable[[EmbeddedPostgres], Iterator[None]]
) -> None:
    assert DATABASE_KEPT_SECONDS + DATABASE_DOWN_AFTER_SECONDS <= 1
    with fault(server):  # type: ignore[attr-defined] # a context manager
        assert until(site, is_up=False) < 1 + SLACK_SECONDS
        asked = time.monotonic()
        assert site.metrics() == {("database_up", ()): 0}
        assert time.monotonic() - asked < 1 + SLACK_SECONDS
    until(site, is_up=True)


def test_postgresql_that_hangs_while_its_health_is_being_read_is_not_called_up(
    site: Site, server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs = threading.Event()
    health = Observer._health

    def health_until_it_hangs(asked: Observer) -> Any:
        found = health(asked)
        assert hangs.wait(PATIENCE_SECONDS)
        return found

    monkeypatch.setattr(observer, "HEALTH_WITHIN_SECONDS", 1.0)
    monkeypatch.setattr(Observer, "_health", health_until_it_hangs)
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'aggregator.sources'::regclass"
    answers: list[dict[Any, float]] = []
    asking = threading.Thread(target=lambda: answers.append(site.metrics()))
    with closing(psycopg2.connect(server.url)) as holder, holder.cursor() as cursor:
        cursor.execute("LOCK TABLE aggregator.sources")
        threading.Event().wait(2 * KEPT_SECONDS)  # what was read before is not kept so long
        asking.start()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while cursor.execute(waits) or cursor.fetchall() == [(0,)]:
            assert time.monotonic() < deadline
        with frozen(server):
            hangs.set()
            asking.join(PATIENCE_SECONDS)
    assert answers == [{("database_up", ()): 0}]
