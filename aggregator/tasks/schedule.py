"""When jobs are woken: a schedule that is aligned to the clock and carries its slot (docs/adr/0005)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from celery.beat import BeatLazyFunc
from celery.schedules import BaseSchedule

from aggregator.config.model import Settings
from aggregator.rollups.buckets import floor_to, offset_of

ROLLUP_INTERVAL = timedelta(seconds=5)
VERIFY_INTERVAL = timedelta(days=1)
#: A job that runs seldom is woken at least so often; the slot that it claims decides.
MOST_WAKE_INTERVAL = timedelta(minutes=1)


class ClockSchedule(BaseSchedule):
    """Due in each slot, at the slot's start plus a fixed offset; never relative to the last run.

    A slot that is longer than a minute is sent every minute: what was lost with a worker is claimed again. A beat that
    has just started sends the slot that is running. What was done already is refused by the claim in PostgreSQL.
    """

    def __init__(self, interval: timedelta, offset: timedelta = timedelta(0)) -> None:
        super().__init__()
        self.interval = interval
        self.offset = offset
        self.wake_interval = min(interval, MOST_WAKE_INTERVAL)
        self._sent: datetime | None = None

    def slot(self, now: datetime) -> datetime:
        """The newest slot that is due at `now` (UTC)."""
        return floor_to(now - self.offset, self.interval)

    def _wake(self, now: datetime) -> datetime:
        """The newest instant that is not after `now` at which the running slot was to be sent, without the offset."""
        slot = self.slot(now)
        return slot + (now - self.offset - slot) // self.wake_interval * self.wake_interval

    def is_due(self, last_run_at: datetime) -> tuple[bool, float]:  # noqa: ARG002 - beat's own last run does not matter
        """Whether a slot is to be sent now, and the seconds until the next time."""
        now = datetime.now(UTC)
        wake = self._wake(now)
        following = min(wake + self.wake_interval, self.slot(now) + self.interval) + self.offset
        return wake != self._sent, max((following - now).total_seconds(), 0.0)

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """How long until the next slot is due."""
        return timedelta(seconds=self.is_due(last_run_at)[1])

    def take_slot(self) -> str:
        """The slot that is being sent, as the message carries it (ISO 8601, UTC)."""
        now = datetime.now(UTC)
        self._sent = self._wake(now)
        return self.slot(now).isoformat()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ClockSchedule):
            return NotImplemented
        return (self.interval, self.offset) == (other.interval, other.offset)

    def __hash__(self) -> int:
        return hash((self.interval, self.offset))

    def __reduce__(self) -> tuple[type[ClockSchedule], tuple[timedelta, timedelta]]:
        return type(self), (self.interval, self.offset)

    def __repr__(self) -> str:
        return f"<every {self.interval} at +{self.offset}>"


def beat_schedule(settings: Settings) -> dict[str, dict[str, Any]]:
    """All periodic jobs of the installation, as Celery's `beat_schedule`."""
    entries = {
        f"collect:{source.name}": _entry(
            "aggregator.wake", settings.namespace, "collect", source.interval, source.name, source=source.name
        )
        for source in settings.sources
    }
    entries["rollup"] = _entry("aggregator.rollup", settings.namespace, "rollup", ROLLUP_INTERVAL, "rollup")
    entries["summarize"] = _entry(
        "aggregator.summarize",
        settings.namespace,
        "summarize",
        _woken_every(summary.refresh for summary in settings.summaries),
        "summarize",
    )
    entries["maintain"] = _entry("aggregator.maintain", settings.namespace, "maintain", MOST_WAKE_INTERVAL, "maintain")
    entries["verify"] = _entry("aggregator.verify", settings.namespace, "maintain", VERIFY_INTERVAL, "verify")
    return entries


def _woken_every(intervals: Iterable[timedelta]) -> timedelta:
    return min((*intervals, MOST_WAKE_INTERVAL))


def _entry(task: str, namespace: str, queue: str, interval: timedelta, job: str, **arguments: str) -> dict[str, Any]:
    schedule = ClockSchedule(interval, offset_of(job, interval))
    return {
        "task": task,
        "schedule": schedule,
        "kwargs": {**arguments, "slot": BeatLazyFunc(schedule.take_slot)},
        # Nobody waits for the result, and a slot that is over is not caught up (docs/pitfalls.md#expires).
        "options": {
            "queue": f"{namespace}.{queue}",
            "expires": schedule.wake_interval.total_seconds(),
            "ignore_result": True,
        },
    }
