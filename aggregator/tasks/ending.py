"""A worker that is told to end, and has nothing left to do, ends: nobody is there to tell it twice."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from importlib import import_module
from typing import Any

import structlog
from celery import signals

from aggregator.tasks.app import app

log = structlog.get_logger(__name__)

#: An orderly end takes two or three seconds after the last task.
LEFT_ALONE_SECONDS = 10.0
_LOOK_SECONDS = 0.5


_started: list[threading.Thread] = []


@signals.worker_shutting_down.connect(weak=False)
def _see_to_the_end(exitcode: int, **_: Any) -> None:  # noqa: ANN401 - Celery's signal sends anything
    see_to_the_end(exitcode, heeds_tasks=True)


def see_to_the_end(exitcode: int, *, heeds_tasks: bool) -> None:
    """Watch this process' end from a thread, once: nothing is forked any more.

    `heeds_tasks`: what runs may go on; otherwise it was told to end, and has as long as everything else.
    """
    if not _started:
        _started.append(threading.Thread(target=_wait, args=(exitcode, heeds_tasks), name="ending", daemon=True))
        _started[0].start()


def _wait(exitcode: int, heeds_tasks: bool) -> None:  # noqa: FBT001 - a thread's target
    """End this process once no task has run for a while, or one has run for longer than any may.

    Celery waits for its pool without limit, for a child that stands still; and a child waits for half a minute to have
    every result counted, also one that its parent threw away when the connection to the broker was lost (seen: 30 s
    from TERM to the end). The children end with their parent; what they were at is claimed again.
    """
    state = import_module("celery.worker.state")  # known in a worker; others need not load it
    begun = idle_since = time.monotonic()
    longest = float(app.conf.task_time_limit) + LEFT_ALONE_SECONDS
    while time.monotonic() - idle_since < LEFT_ALONE_SECONDS and time.monotonic() - begun < longest:
        time.sleep(_LOOK_SECONDS)
        if heeds_tasks and state.active_requests:
            idle_since = time.monotonic()
    log.error("end_forced", waited_seconds=round(time.monotonic() - begun))
    faulthandler.dump_traceback(sys.stderr, all_threads=True)
    os._exit(exitcode)
