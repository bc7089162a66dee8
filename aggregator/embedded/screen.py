"""What `aggregator up` shows: lines for everybody, and on a terminal a live table below them."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from types import TracebackType

    from aggregator.embedded.status_poll import Glance, StatusReport

UNKNOWN = "-"


class Screen(Protocol):
    """A place to show lines and, again and again, the newest status."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def say(self, line: str) -> None:
        """Show a line, for good."""

    def show(self, report: StatusReport | None) -> None:
        """Show the newest status; None: the web process does not answer."""


def glance_line(glance: Glance) -> str:
    """A machine in a line: `web1: CPU 3 %, load 0.20, memory 41 %, disk 40 % (/)`."""
    return (
        f"{glance.instance}: CPU {percent(glance.cpu_busy_ratio)}, load {number(glance.load1)},"
        f" memory {percent(glance.memory_used_ratio)},"
        f" disk {percent(glance.disk_fullest_ratio)} ({glance.disk_mountpoint or UNKNOWN})"
    )


def percent(ratio: float | None) -> str:
    """A ratio as people read it."""
    return UNKNOWN if ratio is None else f"{100 * ratio:.0f} %"


def number(value: float | None) -> str:
    """A number with two decimals."""
    return UNKNOWN if value is None else f"{value:.2f}"


class PlainScreen:
    """Lines on standard output; a reader that has gone away stops nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def say(self, line: str) -> None:
        """Show a line at once."""
        with contextlib.suppress(OSError):
            sys.stdout.write(line + "\n")
            sys.stdout.flush()

    def show(self, report: StatusReport | None) -> None:
        """Lines are said only when something changes, which the supervisor knows."""
