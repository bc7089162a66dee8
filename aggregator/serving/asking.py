"""Asking a server that may hang: in a thread of its own, with a limit to how long anybody waits for the answer."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Answer = TypeVar("Answer")


class Question(Generic[Answer]):
    """One question, asked by at most one thread at a time; a fresh answer serves everybody who waits.

    A server that was stopped, or whose machine vanished, lets a driver hang without limit: neither statement_timeout
    nor TCP's own timeouts end that. The asker then gives up; nobody asks again before the hanging thread has ended.
    """

    def __init__(self, ask: Callable[[], Answer], *, kept_seconds: float) -> None:
        self._ask = ask
        self._kept_seconds = kept_seconds
        self._changed = threading.Condition()
        self._is_running = False
        self._answered_at = float("-inf")
        self._answer: Answer | None = None
        self._error: Exception | None = None

    def answer(self, *, within_seconds: float) -> Answer | None:
        """A fresh answer, or None where there is none in time; raises what asking raised."""
        with self._changed:
            if time.monotonic() - self._answered_at > self._kept_seconds:
                if not self._is_running:
                    self._is_running = True
                    threading.Thread(target=self._run, daemon=True).start()
                before = self._answered_at
                if not self._changed.wait_for(lambda: self._answered_at > before, within_seconds):
                    return None
            if self._error is not None:
                raise self._error
            return self._answer

    def _run(self) -> None:
        answer: Answer | None = None
        error: Exception | None = None
        try:
            answer = self._ask()
        except Exception as raised:  # noqa: BLE001 - it is raised again where the answer is wanted
            error = raised
        with self._changed:
            self._answer, self._error = answer, error
            self._answered_at, self._is_running = time.monotonic(), False
            self._changed.notify_all()
