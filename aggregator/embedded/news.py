"""What is worth a line: the first samples, a problem that appeared, one that has gone."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from aggregator.embedded.screen import Screen, glance_line

if TYPE_CHECKING:
    from aggregator.embedded.status_poll import StatusReport


class News:
    """Compares each status with the one before and says what changed."""

    def __init__(self, screen: Screen, started_at: float) -> None:
        self._screen = screen
        self._started_at = started_at
        self._problems: tuple[str, ...] = ()
        self.has_samples = False

    def tell(self, report: StatusReport | None) -> None:
        """Show the status, and say what is new in it; problems are told from the first samples on."""
        self._screen.show(report)
        if report is None:
            return
        if not self.has_samples and any(glance.load1 is not None for glance in report.glances):
            self.has_samples = True
            seconds = time.monotonic() - self._started_at
            for glance in report.glances:
                self._screen.say(f"first samples after {seconds:.1f} s: {glance_line(glance)}")
        if self.has_samples:
            self._tell_problems(report.problems)

    def _tell_problems(self, problems: tuple[str, ...]) -> None:
        for problem in problems:
            if problem not in self._problems:
                self._screen.say(f"problem: {problem}")
        for problem in self._problems:
            if problem not in problems:
                self._screen.say(f"over: {problem}")
        self._problems = problems
