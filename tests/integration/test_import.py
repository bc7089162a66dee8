"""Import of old samples: the same rows whatever the order, the repetition, the number of importers, or crashes."""

from __future__ import annotations

import gzip
import os
import random
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from aggregator.embedded.process import wait_until
from aggregator.rollups.buckets import milliseconds
from aggregator.storage.engine import transaction
from tests import oracle
from tests.importing import Site, Sites, dump_lines, written
from tests.sessions import session

LOOKBACK_MS = 300_000
PATIENCE = timedelta(seconds=180)
PROMTOOL = shutil.which("promtool") or ""


def test_the_order_of_a_file_repetition_and_format_change_nothing(sites: Sites, tmp_path: Path) -> None:
    lines = dump_lines()
    shuffled = lines.copy()
    random.Random(2).shuffle(shuffled)  # noqa: S311 - a test's own randomness
    found = {}
    for name, ordered in {"forwards": lines, "backwards": lines[::-1], "shuffled": shuffled}.items():
        site = sites(name)
        report = site.run(written(tmp_path / f"{name}.om", ordered))
        assert (report.stored, report.is_whole) == (report.read, True)
        found[name] = site.rows()
    again = site.run(tmp_path / "forwards.om")
    assert (again.stored, again.unchanged, again.replaced) == (0, again.read, 0)
    found["again"] = site.rows()
    of_csv = sites("csv")
    of_csv.run(as_csv(tmp_path / "f.csv.gz", lines))
    found["csv"] = of_csv.rows()
    assert found["forwards"]["metrics_1d"]
    for name, rows in found.items():
        assert rows == found["forwards"], name


def as_csv(path: Path, lines: list[str]) -> Path:
    with gzip.open(path, "wt") as file:
        file.write("metric,instance,job,path,time,value\n")
        for line in lines:
            parts = re.fullmatch(r'(\w+)\{instance="(.*?)",job="node"(?:,path="(.*)")?\} (\S+) (\S+)', line)
            assert parts is not None
            instant = datetime.fromtimestamp(float(parts[5]), UTC).isoformat(timespec="milliseconds")
            file.write(f"{parts[1]},{parts[2]},node,{parts[3] or ''},{instant},{parts[4]}\n")
    return path


def test_every_tier_equals_the_oracle(site: Site, tmp_path: Path) -> None:
    lines = dump_lines(4)
    site.run(written(tmp_path / "f.om", lines))
    samples: dict[tuple[str, str], dict[int, float]] = {}
    for line in lines:
        parts = re.fullmatch(r'(\w+)\{instance="(.*?)".*\} (\S+) (\S+)', line)
        assert parts is not None
        if parts[3] != "NaN":
            samples.setdefault((parts[1], parts[2]), {})[round(float(parts[4]) * 1_000)] = float(parts[3])
    for view, step_ms in (("1m", 60_000), ("5m", 300_000), ("1h", 3_600_000), ("1d", 86_400_000)):
        columns = "metric, instance, time, count, first, last, sum, increase, is_final"
        for metric, instance, time, count, first, last, total, increase, is_final in site.ask(
            f"SELECT {columns} FROM aggregator.metrics_{view}"  # noqa: S608 - ours
        ):
            assert isinstance(time, datetime)
            start = milliseconds(time)
            of_series = samples[str(metric), str(instance)].items()
            if metric == "requests_total":
                expected = oracle.counter(of_series, start, start + step_ms, lookback_ms=LOOKBACK_MS)
                assert increase == pytest.approx(expected["increase"])
            else:
                expected = oracle.gauge(of_series, start, start + step_ms)
                assert total == pytest.approx(expected["sum"])
            assert (count, first, last, is_final) == (expected["count"], expected["first"], expected["last"], True)
        assert site.ask(f"SELECT sum(count) FROM aggregator.metrics_{view}") == [  # noqa: S608 - ours
            (sum(map(len, samples.values())),)
        ]


def test_four_importers_at_once_leave_the_rows_of_one(sites: Sites, tmp_path: Path) -> None:
    lines = dump_lines(5)
    alone, together = sites("alone"), sites("together")
    alone.run(written(tmp_path / "whole.om", lines))
    shuffled = lines.copy()
    random.Random(6).shuffle(shuffled)  # noqa: S311 - a test's own randomness
    orders = (lines, lines[::-1], shuffled, shuffled)
    importers = [together.start(written(tmp_path / f"{place}.om", ordered)) for place, ordered in enumerate(orders[:3])]
    importers.append(together.start(tmp_path / "0.om"))  # the very file that another one imports
    for importer in importers:
        output, _ = importer.communicate(timeout=PATIENCE.total_seconds())
        assert importer.returncode == 0, output
    assert together.rows() == alone.rows()
    assert together.ask("SELECT count(*) FROM aggregator.dirty") == [(0,)]
    assert together.spools == []


@contextmanager
def locked(site: Site, table: str) -> Iterator[None]:
    """Nobody writes to a table: an importer does not end before it can be killed."""
    with session(site.url) as database, transaction(database.engine) as connection:
        connection.execute(text(f"LOCK TABLE aggregator.{table} IN SHARE MODE"))
        yield


def killed(importer: subprocess.Popen[bytes], when: Callable[[], bool]) -> None:
    """Kill a process without a word as soon as something holds, and not after its end."""
    assert wait_until(lambda: when() or importer.poll() is not None, PATIENCE)
    assert importer.poll() is None, "it had ended before it could be killed"
    os.killpg(importer.pid, signal.SIGKILL)
    importer.communicate()


def test_what_is_killed_in_either_phase_goes_on_and_leaves_the_same_rows(sites: Sites, tmp_path: Path) -> None:
    lines = dump_lines(7, targets=5, seconds=7_200)
    alone, site = sites("unharmed"), sites("harmed")
    path = written(tmp_path / "f.om", lines)
    alone.run(path)
    with locked(site, "sample_frame"):
        killed(site.start(path), lambda: bool(site.spools))
    with locked(site, "rollup"):
        killed(site.start(path), lambda: bool(site.ask("SELECT 1 FROM aggregator.sample_frame LIMIT 1")))
    assert len(site.spools) == 1
    output, _ = (last := site.start(path)).communicate(timeout=PATIENCE.total_seconds())
    assert last.returncode == 0, output
    assert site.rows() == alone.rows()
    assert site.spools == []


def test_what_prometheus_has_stored_and_dumped_is_read(sites: Sites, tmp_path: Path) -> None:
    if not PROMTOOL:
        is_required = os.environ.get("AGGREGATOR_TEST_REQUIRE_SERVERS") == "1"
        (pytest.fail if is_required else pytest.skip)("promtool is not installed")
    lines = [line for line in dump_lines(10, targets=2) if " NaN " not in line]
    ours = written(tmp_path / "ours.om", lines)
    blocks = tmp_path / "blocks"
    subprocess.run(
        [PROMTOOL, "tsdb", "create-blocks-from", "openmetrics", ours, blocks], check=True, capture_output=True
    )
    (blocks / "wal").mkdir()  # which dump looks for
    dumped = subprocess.run([PROMTOOL, "tsdb", "dump", blocks], check=True, capture_output=True, text=True).stdout
    theirs = written(tmp_path / "theirs.om", list(map(as_openmetrics, dumped.splitlines())))
    direct, through = sites("direct"), sites("through")
    direct.run(ours)
    through.run(theirs)
    assert through.rows() == direct.rows()


def as_openmetrics(line: str) -> str:
    """A line of `tsdb dump` as `tsdb dump-openmetrics`, which promtool has since 2.50, writes it."""
    parts = re.fullmatch(r'\{__name__="([^"]+)", (.*)\} (\S+) (\d+)', line)
    assert parts is not None
    at_ms = int(parts[4])
    labels = parts[2].replace('", ', '",')
    return f"{parts[1]}{{{labels}}} {parts[3]} {at_ms // 1_000}.{at_ms % 1_000:03d}"
