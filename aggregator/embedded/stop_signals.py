"""Ctrl-C, TERM and hang-up: at start they interrupt, later they are counted, and they wake whoever waits."""

from __future__ import annotations

import os
import select
import signal
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_DRAIN_BYTES = 4_096


class StopSignals:
    """How often this process was asked to stop; a second time means: hurry."""

    def __init__(self) -> None:
        self._count = 0
        self._interrupts = False
        self._wake, self._woken = -1, -1

    @property
    def is_stopping(self) -> bool:
        """Whether anybody asked."""
        return self._count > 0

    def is_hurried(self) -> bool:
        """Whether somebody asked again."""
        return self._count > 1

    @contextmanager
    def installed(self) -> Iterator[StopSignals]:
        """Handle the signals, and the death of children, until the end of the block. Main thread only."""
        self._woken, self._wake = _pipe()
        before = {number: signal.getsignal(number) for number in (*_STOP, signal.SIGCHLD)}
        # nohup stays nohup; but a background job of a script, born with SIGINT ignored, is stopped by it all the same.
        handled = [number for number in _STOP if number != signal.SIGHUP or before[number] is not signal.SIG_IGN]
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        for number in handled:
            signal.signal(number, self._requested)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(-1)
            os.close(self._wake)
            os.close(self._woken)

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Within the block the first request raises KeyboardInterrupt: for steps that wait for others."""
        if self.is_stopping:
            raise KeyboardInterrupt
        self._interrupts = True
        try:
            yield
        finally:
            self._interrupts = False

    def wait(self, seconds: float) -> None:
        """Sleep until a signal comes or the time is over."""
        if not self.is_stopping:
            select.select([self._woken], [], [], seconds)
        with suppress(BlockingIOError):
            os.read(self._woken, _DRAIN_BYTES)

    def _requested(self, _number: int, _frame: FrameType | None) -> None:
        self._count += 1
        if self._interrupts:
            self._interrupts = False
            raise KeyboardInterrupt


def _pipe() -> tuple[int, int]:
    ends = os.pipe()
    for end in ends:
        os.set_blocking(end, False)
    return ends
