"""Beat's scheduler: Celery's own, in memory, that bears a clock that is set back and a broker that is away."""

from __future__ import annotations

import time
from typing import Any

import structlog
from celery.beat import Scheduler

log = structlog.get_logger(__name__)

#: A clock that is disciplined runs a little slow or fast; one that is set jumps.
_JUMP_SECONDS = 1.0


class ClockScheduler(Scheduler):
    """Celery's scheduler, which keeps what comes next in a heap by the time of the clock.

    Where the clock is set back by an hour nothing in that heap is due for an hour (docs/pitfalls.md#clock-set-back).
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - Celery's own
        self._clock_offset = _clock_offset()
        super().__init__(*args, **kwargs)

    def tick(self, *args: Any, **kwargs: Any) -> float:  # noqa: ANN401 - as above
        """Send what is due, one message at a time; gives the seconds until the next call."""
        offset = _clock_offset()
        if offset < self._clock_offset - _JUMP_SECONDS:
            log.warning("clock_set_back", seconds=round(self._clock_offset - offset, 1))
            self._heap = None  # it is made anew
        self._clock_offset = offset
        return float(super().tick(*args, **kwargs))

    def apply_entry(self, entry: Any, producer: Any = None) -> None:  # noqa: ANN401 - as above
        """Send one message; where the broker is away, one line says so. The slot decides, and it will be counted."""
        try:
            self.apply_async(entry, producer=producer, advance=False)
        except Exception as error:  # noqa: BLE001 - whatever a transport raises; beat goes on with the next entry
            log.warning("wake_not_sent", job=entry.name, error=str(error))


def _clock_offset() -> float:
    """What the clock shows beyond the time that really passes."""
    return time.time() - time.monotonic()
