"""A day on which nothing was collected: a gap in the rows, and slots that were missed."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text, update

from aggregator.cli.app import run
from aggregator.exposition.series import Kind
from aggregator.storage import tables
from tests.installation import Installation, series_key
from tests.slots import collect_slot

START = datetime(2026, 3, 1, tzinfo=UTC)
DAY, STEP = timedelta(days=1), timedelta(minutes=30)
OFFSET = timedelta(seconds=2)
GAUGE = series_key("g", 0, Kind.GAUGE)
COUNTER = series_key("c_total", 0, Kind.COUNTER)


def collect_days_one_and_three(installation: Installation) -> None:
    """Every half hour of two days but for one slot of the first, and of the day between none."""
    interval = update(tables.sources).where(tables.sources.c.id == installation.source_id)
    installation.database.run(
        lambda connection: connection.execute(interval.values(interval_seconds=STEP.total_seconds()))
    )
    (target,) = installation.targets(1)
    slots_a_day = DAY // STEP
    for place in (*range(slots_a_day), *range(2 * slots_a_day, 3 * slots_a_day)):
        if place != 10:
            collect_slot(installation, target, START + place * STEP, {GAUGE: 1.0, COUNTER: float(place)}, interval=STEP)
    installation.now = START + 3 * DAY + timedelta(hours=1)
    installation.roll_up()


def test_it_is_a_gap_in_the_rows_and_its_slots_are_missed_in_the_status(
    installation: Installation,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    collect_days_one_and_three(installation)
    for view in ("metrics_1h", "metrics_1d"):
        days = {time.replace(hour=0) for _, _, time in installation.rows(view)}
        assert days == {START, START + 2 * DAY}, view
    days_of = installation.rows("metrics_1d")
    assert days_of["g", "t0", START]["completeness"] == pytest.approx(47 / 48)
    assert days_of["g", "t0", START + 2 * DAY]["completeness"] == 1.0
    assert days_of["g", "t0", START]["is_final"]
    # The counter's difference over the gap is longer than the lookback: it counts for neither day.
    assert days_of["c_total", "t0", START + 2 * DAY]["increase"] == 0
    missed = _status(installation, tmp_path, monkeypatch, capsys)
    installation.database.run(lambda connection: connection.execute(text(_STOPPED)))
    still = _status(installation, tmp_path, monkeypatch, capsys)
    assert still == DAY // STEP + 1
    assert missed > still  # and those since the third day, up to now
    monkeypatch.chdir(tmp_path)
    arguments = ["explain", "g", "--at", (START + DAY).isoformat(), "--tier", "1d"]
    assert run(arguments) == 0
    assert "no rollup; 48 slots were missed" in capsys.readouterr().out


#: A target that is gone misses no further slots.
_STOPPED = "UPDATE aggregator.targets SET active = false"


def _status(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> int:
    """How many slots of the source were missed, as `aggregator status --json` says it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AGGREGATOR_DATABASE_URL", installation.url)
    capsys.readouterr()
    run(["status", "--json"])
    found = json.loads(capsys.readouterr().out)
    (source,) = (one for one in found["sources"] if one["name"] == "scripted")
    return int(source["slots_missed"])
