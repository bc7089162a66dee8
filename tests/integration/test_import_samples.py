"""Import of old samples: what is refused, replaced or skipped, whose samples they are, and how it goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aggregator.errors import DamagedFileError
from aggregator.stages.collect import spool, spool_store
from aggregator.stages.collect.spool_file import FileFormat, HistoryFile
from aggregator.stages.collect.spool_parts import part_directories
from aggregator.stages.collect.spool_store import Stored
from tests.importing import NOW, START_SECONDS, Silent, Site, dump_lines, written


class StopError(Exception):
    """What an interruption is to a test in one process."""


def test_it_goes_on_at_the_window_after_the_last_that_was_stored(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "PART_SAMPLES", 500)
    monkeypatch.setattr(spool_store, "ROLL_UP_SAMPLES", 300)
    monkeypatch.setattr(spool.SpoolReader.windows, "__kwdefaults__", {"most": 200})
    path = written(tmp_path / "f.om", dump_lines(8))

    class Stopping(Silent):
        def __init__(self, *, at: int) -> None:
            super().__init__()
            self.at, self.handled = at, list[int]()

        def storing(self, stored: Stored, *, of_samples: int) -> None:
            self.handled.append(stored.handled)
            assert stored.handled <= of_samples
            if stored.handled > self.at:
                raise StopError

    first = Stopping(at=500)
    with pytest.raises(StopError):
        site.run(path, screen=first)
    (left,) = site.spools
    assert len(part_directories(left)) > 1
    second = Stopping(at=10**9)
    report = site.run(path, screen=second)
    assert second.handled[0] > first.handled[0]
    # Only the window in which it was stopped is stored again.
    assert report.stored + report.unchanged == report.read
    assert 0 < report.unchanged < 300
    assert site.ask("SELECT count(*) FROM aggregator.dirty") == [(0,)]
    assert site.ask("SELECT sum(count) FROM aggregator.metrics_1d") == [(report.read,)]


def test_a_damaged_file_stores_nothing_unless_it_is_to_be_skipped(site: Site, tmp_path: Path) -> None:
    lines = dump_lines(9, targets=1)
    path = written(tmp_path / "f.om", [*lines[:100], "load{ 1 1", *lines[100:]])
    with pytest.raises(DamagedFileError, match=r"f\.om:101: .*nothing was stored"):
        site.run(path)
    assert site.ask("SELECT count(*) FROM aggregator.series") == [(0,)]
    assert site.spools == []
    screen = Silent()
    report = site.run(path, is_lenient=True, screen=screen)
    assert (report.skipped, report.is_whole, report.stored) == ({"parse": 1}, False, report.read)
    assert screen.damages == [(f"{path}:101", "parse")]
    assert site.ask("SELECT stage, subject, outcome, rows FROM aggregator.runs WHERE stage = 'import' ORDER BY id") == [
        ("import", str(path), "failed", 0),
        ("import", str(path), "ok", report.stored),
    ]


def test_the_last_of_two_values_for_one_instant_counts(site: Site, tmp_path: Path) -> None:
    first = site.run(written(tmp_path / "a.om", [f"m 1 {START_SECONDS}", f"m 2 {START_SECONDS}"]))
    assert (first.stored, first.replaced) == (1, 1)
    second = site.run(written(tmp_path / "b.om", [f"m 3 {START_SECONDS}"]))
    assert (second.stored, second.replaced, second.is_whole) == (0, 1, True)
    assert site.ask("SELECT value FROM aggregator.samples") == [(3.0,)]
    assert site.ask("SELECT count, sum FROM aggregator.metrics_1d") == [(1, 3.0)]


def test_future_and_ancient_samples_are_refused_and_counted(site: Site, tmp_path: Path) -> None:
    now = int(NOW.timestamp())
    report = site.run(written(tmp_path / "f.om", [f"m 1 {at}" for at in (-1, START_SECONDS, now + 600, now + 601)]))
    assert (report.refused, report.stored, report.is_whole) == ({"before_1970": 1, "future": 1}, 2, False)


def test_labels_name_the_source_and_the_target_and_fill_what_is_missing(site: Site, tmp_path: Path) -> None:
    at = START_SECONDS
    lines = [f'm{{job="node",instance="a"}} 1 {at}', f'm{{job="db"}} 2 {at}', f"m 3 {at}", f'm{{x=""}} 4 {at}']
    site.run(written(tmp_path / "f.om", lines))
    site.run(written(tmp_path / "g.om", lines), source="archive")
    targets = "SELECT s.name, t.labels->>'job', t.labels->>'instance' FROM aggregator.targets t"
    assert site.ask(
        targets + " JOIN aggregator.sources s ON s.id = t.source_id WHERE t.address = 'import' ORDER BY t.id"
    ) == [
        ("node", "node", "a"),
        ("db", "db", "db"),
        ("import", "import", "import"),
        ("archive", "node", "a"),
        ("archive", "db", "db"),
        ("archive", "archive", "archive"),
    ]
    assert site.ask("SELECT job, instance, value FROM aggregator.samples WHERE job = 'import'") == [
        ("import", "import", 4)
    ]


def test_a_kind_that_is_registered_already_stays(site: Site, tmp_path: Path) -> None:
    typed = ["# TYPE energy counter", f"energy 1 {START_SECONDS}", f"heat_total 1 {START_SECONDS}"]
    site.run(written(tmp_path / "a.om", typed))
    site.run(written(tmp_path / "b.om", [f"energy 4 {START_SECONDS + 60}"]))
    found = site.ask("SELECT metric, kind, count(*) FROM aggregator.series GROUP BY 1, 2 ORDER BY 1")
    assert found == [("energy", 2, 1), ("heat_total", 2, 1)]
    assert site.ask("SELECT increase FROM aggregator.metrics_1d WHERE metric = 'energy'") == [(3.0,)]


def test_the_command_shows_what_became_of_standard_input(site: Site) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(site.folder), "AGGREGATOR_NODE": "test", **site.variables}
    done = subprocess.run(
        [sys.executable, "-m", "aggregator", "import", "-", "--keep-going", "--interval", "1m"],
        input=f"m 1 {START_SECONDS}\nbad\nm NaN {START_SECONDS + 60}\n# EOF\n".encode(),
        capture_output=True,
        check=False,
        cwd=Path(__file__).parents[2],
        env=environment,
    )
    assert done.returncode == 1
    assert b"1 samples read: 1 stored, 0 already there, 0 replaced, 0 refused" in done.stdout
    assert b"skipped 1 lines: parse" in done.stdout
    assert b"left out 1 values NaN: no sample" in done.stdout
    assert b"-:2: the line 'bad'" in done.stderr
    assert site.ask("SELECT interval_seconds FROM aggregator.sources WHERE name = 'import'") == [(60.0,)]


def test_the_format_is_told_by_the_name(tmp_path: Path) -> None:
    for name, file_format in {"a.csv": "csv", "a.csv.gz": "csv", "a.om.gz": "openmetrics", "a": "openmetrics"}.items():
        (tmp_path / name).touch()
        assert HistoryFile.of(str(tmp_path / name), None).file_format is FileFormat(file_format)
