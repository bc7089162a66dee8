"""How far an import is: bars on a terminal, else a line every ten seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from aggregator.exposition.history import Damage
    from aggregator.stages.collect.spool_file import HistoryFile
    from aggregator.stages.collect.spool_parts import State
    from aggregator.stages.collect.spool_store import Stored
    from aggregator.tasks.importing import Screen

_LINE_EVERY_SECONDS = 10.0
#: Damaged lines that are shown one by one; the summary counts all of them.
MOST_DAMAGES_SHOWN = 20
_MEGABYTE = 1_000_000


@dataclass
class PlainScreen:
    """Lines on standard error, the first one when there is something to say for so long."""

    _said_at: float = field(default_factory=time.monotonic)
    _damages: int = 0

    def waiting(self) -> None:
        """As `Screen`."""
        self.say("another process imports this file; waiting until it has ended")

    def reading(self, state: State) -> None:
        """As `Screen`."""
        self._now_and_then(f"read {state.offset / _MEGABYTE:,.0f} MB, {state.samples:,} samples")

    def storing(self, stored: Stored, *, of_samples: int) -> None:
        """As `Screen`."""
        self._now_and_then(f"stored {stored.handled:,} of {of_samples:,} samples")

    def rolling_up(self) -> None:
        """As `Screen`."""
        self._now_and_then("rolling up")

    def damaged(self, place: str, damage: Damage) -> None:
        """As `Screen`."""
        self._damages += 1
        if self._damages <= MOST_DAMAGES_SHOWN:
            self.say(f"{place}: {damage.message}; skipped")
        if self._damages == MOST_DAMAGES_SHOWN:
            self.say("further damaged lines are only counted")

    def say(self, line: str) -> None:
        """Show a line."""
        sys.stderr.write(line + "\n")
        sys.stderr.flush()

    def _now_and_then(self, line: str) -> None:
        now = time.monotonic()
        if now - self._said_at >= _LINE_EVERY_SECONDS:
            self._said_at = now
            self.say(line)


def _bars() -> Progress:
    columns = (TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))


@dataclass
class BarScreen(PlainScreen):
    """A bar for each phase; `bytes_in_all` is None where nobody knows how much will come."""

    progress: Progress = field(default_factory=_bars)
    bytes_in_all: int | None = None
    _tasks: dict[str, TaskID] = field(default_factory=dict)

    def reading(self, state: State) -> None:
        """As `Screen`."""
        total = None if self.bytes_in_all is None else self.bytes_in_all // _MEGABYTE
        self._show("reading, MB", state.offset // _MEGABYTE, total)

    def storing(self, stored: Stored, *, of_samples: int) -> None:
        """As `Screen`."""
        self._show("storing, samples", stored.handled, of_samples)

    def rolling_up(self) -> None:
        """As `Screen`."""
        if "storing, samples" in self._tasks:
            self.progress.update(self._tasks["storing, samples"], description="rolling up")

    def say(self, line: str) -> None:
        """Show a line above the bars."""
        self.progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _show(self, phase: str, done: int, total: int | None) -> None:
        if phase not in self._tasks:
            self._tasks[phase] = self.progress.add_task(phase, total=total)
        self.progress.update(self._tasks[phase], completed=done, description=phase)


@contextmanager
def make_screen(file: HistoryFile) -> Iterator[Screen]:
    """What fits where standard error goes."""
    if not sys.stderr.isatty():
        yield PlainScreen()
        return
    screen = BarScreen(bytes_in_all=file.size_bytes)
    with screen.progress:
        yield screen
