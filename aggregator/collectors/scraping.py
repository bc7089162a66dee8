"""Many HTTP exchanges at once in one background thread, handed over one by one as they end."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog
from aiohttp import ClientSession

from aggregator.collectors.access import Access
from aggregator.collectors.http import Answer, fetch, open_session
from aggregator.collectors.outcome import now
from aggregator.collectors.protocol import Target
from aggregator.errors import RejectedError

log = structlog.get_logger(__name__)

#: More than this are in flight at no time; the others begin, with their whole deadline, as soon as one ends.
MOST_AT_ONCE = 256
#: Names are resolved in threads, which a dead name server can hold up; addresses need none.
_RESOLVER_THREADS = 32


@dataclass(frozen=True)
class Scraped:
    """How the exchange with one target ended: its answer, or why there is none."""

    target: Target
    started_at: datetime
    duration_seconds: float
    outcome: Answer | RejectedError


@dataclass(frozen=True)
class Bounds:
    """What one exchange may cost, and how a target is asked."""

    deadline: timedelta
    body_bytes: int
    access: Access = field(default_factory=Access)


def scrape_all(targets: Sequence[Target], bounds: Bounds) -> Iterator[Scraped]:
    """Ask all targets at once and yield each exchange as soon as it has ended.

    What the caller does between two of them delays no exchange. Closing the iterator early ends the others.
    """
    arriving: queue.SimpleQueue[Scraped | None] = queue.SimpleQueue()
    with _background(targets, bounds, arriving):
        while (scraped := arriving.get()) is not None:
            yield scraped


@contextmanager
def _background(
    targets: Sequence[Target], bounds: Bounds, arriving: queue.SimpleQueue[Scraped | None]
) -> Iterator[None]:
    """Run all exchanges in a thread with an event loop of its own; on leaving, both have ended."""
    loop = asyncio.new_event_loop()
    loop.set_default_executor(ThreadPoolExecutor(_RESOLVER_THREADS, thread_name_prefix="resolve"))
    task = loop.create_task(_ask_all(targets, bounds, arriving))

    def run() -> None:
        try:
            with suppress(asyncio.CancelledError):
                loop.run_until_complete(task)
        finally:
            arriving.put(None)

    thread = threading.Thread(target=run, name="scrape", daemon=True)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
        # Not asyncio.run(): that would wait for a resolver thread which hangs on a dead name server.
        loop.close()


async def _ask_all(targets: Sequence[Target], bounds: Bounds, arriving: queue.SimpleQueue[Scraped | None]) -> None:
    free = asyncio.Semaphore(MOST_AT_ONCE)

    async def ask(target: Target) -> None:
        async with free:
            arriving.put(await _ask(session, target, bounds))

    async with open_session() as session, asyncio.TaskGroup() as group:
        for target in targets:
            group.create_task(ask(target))


async def _ask(session: ClientSession, target: Target, bounds: Bounds) -> Scraped:
    started_at, started_seconds = now(), time.monotonic()
    outcome: Answer | RejectedError
    try:
        outcome = await fetch(
            session,
            target.address,
            deadline=bounds.deadline,
            body_bytes=bounds.body_bytes,
            access=bounds.access,
        )
    except RejectedError as error:
        outcome = error
    except Exception as error:  # noqa: BLE001 - whatever one target provokes, the others are collected
        # Not the error's text: it may hold the address with its password.
        log.error("scrape_failed_unexpectedly", target=target.id, error=type(error).__name__)  # noqa: TRY400 - as above
        outcome = RejectedError("internal", f"the exchange failed with {type(error).__name__}; please report this")
    return Scraped(target, started_at, time.monotonic() - started_seconds, outcome)
