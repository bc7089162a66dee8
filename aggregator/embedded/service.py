"""The processes that `aggregator up` keeps running: what they are, and when one that died is started again."""

from __future__ import annotations

import signal
import sys
import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from aggregator.embedded.process import end_process, start_process

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Mapping

    from aggregator.embedded.log_files import LogFiles

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
#: After so long in good health, the next death is the first again.
HEALTHY_SECONDS = 60.0


@dataclass
class Backoff:
    """When to try again: after 1 s, 2 s, 4 s, ... 30 s. Times are of the monotonic clock, in seconds."""

    pause_seconds: float = 0.0
    started_at: float = 0.0
    due_at: float | None = None

    def started(self, now: float) -> None:
        """It was started: the pause is kept for the case that it dies soon."""
        self.started_at, self.due_at = now, None

    def died(self, now: float) -> float:
        """It has died; returns the seconds until it is due."""
        if now - self.started_at >= HEALTHY_SECONDS:
            self.pause_seconds = 0.0
        self.pause_seconds = min(max(2 * self.pause_seconds, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
        self.due_at = now + self.pause_seconds
        return self.pause_seconds

    def is_due(self, now: float) -> bool:
        """Whether its pause is over."""
        return self.due_at is not None and now >= self.due_at


@dataclass
class Service:
    """One of our own processes: `arguments` follow the Python interpreter's path."""

    name: str
    arguments: tuple[str, ...]
    stop_steps: tuple[tuple[signal.Signals, timedelta], ...]
    backoff: Backoff = field(default_factory=Backoff)
    process: subprocess.Popen[bytes] | None = None

    def start(self, logs: LogFiles, environment: Mapping[str, str]) -> None:
        """Start it; main thread only."""
        with logs.append(self.name) as output:
            self.process = start_process(
                [sys.executable, *self.arguments],
                output=output,
                environment=environment,
                parent_death_signal=signal.SIGTERM,
            )
        self.backoff.started(time.monotonic())

    def exit_code(self) -> int | None:
        """Its exit code if it has ended by itself, else None; negative: the signal that killed it."""
        return None if self.process is None else self.process.poll()

    def stop(self, is_hurried: Callable[[], bool] = lambda: False) -> None:
        """End it and all that it started; a second call does nothing."""
        if self.process is not None:
            end_process(self.process, *self.stop_steps, is_hurried=is_hurried)
            self.process = None


def own_services(log_level: str) -> tuple[Service, ...]:
    """Worker, beat and web, in the order of their start; they are stopped beat first."""
    celery = ("-m", "celery", "-A", "aggregator")
    quick = ((signal.SIGTERM, timedelta(seconds=5)),)
    # The first TERM lets running tasks end; QUIT cancels them.
    patient = ((signal.SIGTERM, timedelta(seconds=10)), (signal.SIGQUIT, timedelta(seconds=3)))
    level = f"--loglevel={log_level}"
    # One worker has nobody to gossip with.
    alone = ("--without-gossip", "--without-mingle", "--without-heartbeat")
    return (
        Service("worker", (*celery, "worker", *alone, level), patient),
        Service("beat", (*celery, "beat", level), quick),
        Service("web", ("-m", "aggregator", "web"), quick),
    )


STOP_ORDER = ("beat", "worker", "web")
