"""The live table of `aggregator up` on a terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from aggregator.embedded.screen import UNKNOWN, PlainScreen, number, percent

if TYPE_CHECKING:
    from types import TracebackType

    from aggregator.embedded.status_poll import Glance, StatusReport, TierState


@dataclass
class LiveScreen:
    """Lines that scroll away, and below them a table that stays."""

    _live: Live | None = None
    _shown: tuple[StatusReport | None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    def say(self, line: str) -> None:
        """Show a line above the table."""
        if self._live:
            self._live.console.print(Text(line), soft_wrap=True)
        else:
            PlainScreen().say(line)

    def show(self, report: StatusReport | None) -> None:
        """Draw the table anew, if anything in it has changed."""
        if self._live is None:
            self._live = Live(auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
            self._live.start()
        if self._shown != (report,):
            self._shown = (report,)
            self._live.update(drawn(report), refresh=True)


def drawn(report: StatusReport | None) -> RenderableType:
    """A status as tables: machines, tiers, and the problems below them."""
    if report is None:
        return Text("waiting for the first status ...", style="dim")
    problems = [Text(f"! {problem}", style="red") for problem in report.problems]
    footer = Text(f"{report.series:,} series. Ctrl-C stops everything.", style="dim")
    return Group("", _machines(report.glances), "", _tiers(report.tiers), "", *problems, footer)


def _machines(glances: tuple[Glance, ...]) -> Table:
    table = _table("host", "CPU", "load", "memory", "fullest disk")
    for one in glances:
        disk = f"{percent(one.disk_fullest_ratio)} {one.disk_mountpoint or ''}"
        memory = percent(one.memory_used_ratio)
        table.add_row(Text(one.instance), percent(one.cpu_busy_ratio), number(one.load1), memory, Text(disk))
    return table


def _tiers(tiers: tuple[TierState, ...]) -> Table:
    table = _table("tier", "newest bucket", "lag")
    for tier in tiers:
        lag = UNKNOWN if tier.lag_seconds is None else f"{tier.lag_seconds:.0f} s"
        table.add_row(tier.name, tier.newest_bucket or UNKNOWN, lag)
    return table


def _table(*titles: str) -> Table:
    return Table(*titles, box=None, header_style="bold", pad_edge=False, padding=(0, 3, 0, 0))
