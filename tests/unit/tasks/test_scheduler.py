"""Beat's scheduler goes on at once when the clock is set back, or forward."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from celery import Celery
from celery.beat import BeatLazyFunc, ScheduleEntry, _evaluate_entry_kwargs
from structlog.testing import capture_logs

from aggregator.tasks.schedule import ClockSchedule
from aggregator.tasks.scheduler import ClockScheduler

START = datetime(2026, 3, 1, 8, tzinfo=UTC)
HOUR = timedelta(hours=1)
INTERVALS = {"often": timedelta(seconds=5), "seldom": timedelta(seconds=15)}


class Recorder(ClockScheduler):
    """Sends to a list."""

    sent: list[tuple[str, datetime]]

    def apply_entry(self, entry: ScheduleEntry, producer: Any = None) -> None:
        """Note the entry and its slot."""
        del producer
        slot = _evaluate_entry_kwargs(entry.kwargs)["slot"]
        self.sent.append((entry.name, datetime.fromisoformat(slot)))


def make_scheduler() -> Recorder:
    app = Celery("clock", broker="memory://")
    schedules = {name: ClockSchedule(interval) for name, interval in INTERVALS.items()}
    app.conf.beat_schedule = {
        name: {"task": name, "schedule": one, "kwargs": {"slot": BeatLazyFunc(one.take_slot)}}
        for name, one in schedules.items()
    }
    made = Recorder(app=app, lazy=True, max_interval=60)
    made.sent = []
    made.setup_schedule()
    return made


def live(scheduler: Recorder, clock: Any, span: timedelta) -> list[tuple[str, datetime]]:
    """What is sent in a span of time, in which the clock runs as it should."""
    before, until = len(scheduler.sent), datetime.now(UTC) + span
    while datetime.now(UTC) < until:
        pause = scheduler.tick()
        clock.shift(timedelta(seconds=max(pause, 0.001)))  # a tick takes time
    return scheduler.sent[before:]


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_every_entry_is_sent_as_before_after_the_clock_was_set(
    jump: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = 0.0
    with time_machine.travel(START, tick=False) as clock:

        def monotonic() -> float:
            return datetime.now(UTC).timestamp() - passed

        monkeypatch.setattr("aggregator.tasks.scheduler.time.monotonic", monotonic)
        scheduler = make_scheduler()
        assert len(live(scheduler, clock, timedelta(minutes=1))) == 12 + 4
        passed += jump.total_seconds()
        clock.shift(jump)
        sent = live(scheduler, clock, timedelta(minutes=1))
    for name, interval in INTERVALS.items():
        slots = [slot for one, slot in sent if one == name]
        first = START + timedelta(minutes=1) + jump
        assert slots == [first + place * interval for place in range(len(slots))]
        assert len(slots) == timedelta(minutes=1) // interval


def test_a_broker_that_is_away_is_one_line_for_each_wake(caplog: pytest.LogCaptureFixture) -> None:
    app = Celery("clock", broker="redis://127.0.0.1:1/0")
    app.conf.task_publish_retry = False
    entry = ScheduleEntry("often", "often", schedule=ClockSchedule(HOUR), app=app, kwargs={}, options={})
    with capture_logs() as lines:
        ClockScheduler(app=app, lazy=True).apply_entry(entry)
    assert [(line["event"], line["job"]) for line in lines] == [("wake_not_sent", "often")]
    assert caplog.text == ""
