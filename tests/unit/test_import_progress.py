"""How an import shows how far it is: bars on a terminal, few lines elsewhere."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console
from rich.progress import Progress

from aggregator.cli.import_progress import MOST_DAMAGES_SHOWN, BarScreen, PlainScreen, make_screen
from aggregator.exposition.history import Damage
from aggregator.stages.collect.spool_file import FileFormat, HistoryFile
from aggregator.stages.collect.spool_parts import State
from aggregator.stages.collect.spool_store import Stored


def test_lines_come_every_ten_seconds_and_damage_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    screen = PlainScreen()
    screen.reading(State(samples=1))
    assert capsys.readouterr().err == ""
    screen._said_at -= 11
    screen.reading(State(offset=5_000_000, samples=1_234))
    screen.reading(State(offset=6_000_000, samples=2_345))
    screen._said_at -= 11
    screen.storing(Stored(samples=7, refused={"future": 1}), of_samples=10)
    screen._said_at -= 11
    screen.rolling_up()
    screen.waiting()
    assert capsys.readouterr().err.splitlines() == [
        "read 5 MB, 1,234 samples",
        "stored 8 of 10 samples",
        "rolling up",
        "another process imports this file; waiting until it has ended",
    ]
    for line in range(MOST_DAMAGES_SHOWN + 5):
        screen.damaged(f"f:{line}", Damage(line, "parse", "is wrong"))
    shown = capsys.readouterr().err.splitlines()
    assert (shown[0], len(shown)) == ("f:0: is wrong; skipped", MOST_DAMAGES_SHOWN + 1)


def test_a_terminal_shows_a_bar_for_each_phase_and_lines_above_them() -> None:
    out = io.StringIO()
    progress = Progress(console=Console(file=out, force_terminal=True, width=100), auto_refresh=False)
    screen = BarScreen(progress=progress, bytes_in_all=8_000_000)
    with progress:
        screen.reading(State(offset=4_000_000))
        screen.damaged("f:3", Damage(3, "parse", "[b] is wrong"))
        screen.storing(Stored(samples=5), of_samples=10)
        screen.rolling_up()
    assert [(task.description, task.completed, task.total) for task in progress.tasks] == [
        ("reading, MB", 4, 8),
        ("rolling up", 5, 10),
    ]
    assert "f:3: [b] is wrong; skipped" in out.getvalue()


def test_no_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with make_screen(HistoryFile("-", FileFormat.CSV)) as screen:
        assert type(screen) is PlainScreen
