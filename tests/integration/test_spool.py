"""The spool: what is written comes back whole and in order, in windows that are bounded, after crashes too."""

from __future__ import annotations

import gzip
import io
import itertools
import os
import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from aggregator.config.source_model import Limits
from aggregator.errors import DamagedFileError, UsageError
from aggregator.exposition.history import Damage
from aggregator.stages.collect import spool, spool_file
from aggregator.stages.collect.spool import SpoolReader, SpoolWriter
from aggregator.stages.collect.spool_directory import FORGOTTEN_AFTER, held_spool, remove_forgotten, remove_spool
from aggregator.stages.collect.spool_distances import DEFAULT_INTERVAL, median_interval
from aggregator.stages.collect.spool_file import HistoryFile, LineBlocks
from aggregator.stages.collect.spool_parts import DAY_KEY, TARGET_KEY, State
from aggregator.stages.collect.spooling import Spooling

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOW_SECONDS = int(NOW.timestamp())


class Killed(Exception):  # noqa: N818 - what a kill is to the process that it ends
    """Ends a run in the middle, as kill -9 would: nothing is cleaned up."""


def spool_all(
    root: Path,
    path: Path,
    *,
    damaged: Callable[[Damage], None] | None = None,
    progress: Callable[[State], None] = lambda _: None,
) -> State:
    def refuse(damage: Damage) -> None:
        raise DamagedFileError(f"{damage.line}: {damage.reason}")

    root.mkdir(exist_ok=True)
    writer = SpoolWriter.go_on(root, source=None)
    file = HistoryFile.of(str(path), None)
    return Spooling(file, writer, Limits(), damaged or refuse, progress).run(lambda: NOW)


def written(path: Path, lines: list[str], *, end: str = "# EOF\n") -> Path:
    path.write_text("".join(line + "\n" for line in lines) + end)
    return path


def spooled(root: Path, most: int = 1_000_000) -> list[tuple[int, int, float]]:
    reader = SpoolReader.open(root)
    samples = [reader.read(window) for window in reader.windows(0, most=most)]
    return [row for one in samples for row in zip(one.series.tolist(), one.at_ms.tolist(), one.values, strict=True)]


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts and blocks so small that a few thousand lines have many."""
    monkeypatch.setattr(spool, "PART_SAMPLES", 500)
    monkeypatch.setattr(spool_file, "BLOCK_BYTES", 4_096)


def many_lines(seed: int, count: int = 3_000) -> list[str]:
    randomness = random.Random(seed)  # noqa: S311 - a test's own randomness
    lines = [
        f'm{number % 7}{{job="j{number % 3}",instance="i{number % 5}"}} {number} '
        f"{NOW_SECONDS - randomness.randrange(40 * 86_400)}.{number % 1_000:03d}"
        for number in range(count)
    ]
    randomness.shuffle(lines)
    return lines


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("most", [1, 50, 1_000_000])
def test_every_sample_comes_back_once_in_windows_that_are_bounded(tmp_path: Path, most: int) -> None:
    state = spool_all(tmp_path / "spool", written(tmp_path / "f", many_lines(1, 1_200)))
    reader = SpoolReader.open(tmp_path / "spool")
    windows = list(reader.windows(0, most=most))
    assert sorted(value for _, _, value in spooled(tmp_path / "spool", most)) == list(range(1_200))
    assert (state.samples, len(reader.parts)) == (1_200, 3)
    assert [window.since for window in windows] == sorted(window.since for window in windows)
    for window in windows:
        # More than asked for only where a minute of a target cannot be divided.
        assert reader.count(window.since, window.until) <= most or window.until - window.since <= TARGET_KEY
        assert window.until - window.since <= spool.WINDOW_DAYS * DAY_KEY


@pytest.mark.usefixtures("small_parts")
def test_samples_of_an_instant_keep_the_order_of_the_file(tmp_path: Path) -> None:
    lines = [f"m {number} {NOW_SECONDS - number % 2}" for number in range(1_200)]
    spool_all(tmp_path / "spool", written(tmp_path / "f", lines))
    rows = spooled(tmp_path / "spool")
    for at_ms in {at_ms for _, at_ms, _ in rows}:
        values = [value for _, at, value in rows if at == at_ms]
        assert values == sorted(values)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("suffix", [".om", ".om.gz", ".csv", ".csv.gz"])
def test_what_is_killed_goes_on_where_its_last_part_ended(tmp_path: Path, suffix: str) -> None:
    lines, end = many_lines(2), "# EOF\n"
    if "csv" in suffix:
        lines, end = ["metric,time,value", *(f"m{n % 9},{NOW_SECONDS - n},{n}" for n in range(3_000))], ""
    text = ("".join(line + "\n" for line in lines) + end).encode()
    path = tmp_path / f"f{suffix}"
    path.write_bytes(gzip.compress(text) if suffix.endswith("gz") else text)
    seen: list[int] = []

    def run_until_killed() -> State | None:
        calls = itertools.count(1)

        def kill(state: State) -> None:
            seen.append(state.offset)
            if next(calls) == 9:
                raise Killed

        try:
            return spool_all(tmp_path / "spool", path, progress=kill)
        except Killed:
            return None

    state = next(filter(None, (run_until_killed() for _ in range(20))))
    spool_all(tmp_path / "whole", path)
    # A series that comes again after a crash may have a second number: names tell which it is.
    assert {row[1:] for row in spooled(tmp_path / "spool")} == {row[1:] for row in spooled(tmp_path / "whole")}
    assert len(spooled(tmp_path / "spool")) == 3_000
    assert (state.samples, state.line, state.offset) == (3_000, len(lines) + (end != ""), len(text))
    assert seen != sorted(seen), "it was killed and went back"


def test_what_lies_before_1970_or_in_the_future_is_refused_and_counted(tmp_path: Path) -> None:
    times = [-1, 0, NOW_SECONDS, NOW_SECONDS + 600, NOW_SECONDS + 601, 10**15]
    state = spool_all(tmp_path / "spool", written(tmp_path / "f", [f"m 1 {at}" for at in times]))
    assert state.refused == {"before_1970": 1, "future": 2}
    assert (state.samples, len(spooled(tmp_path / "spool"))) == (6, 3)


def test_damage_is_skipped_and_counted_by_reason_where_that_is_asked_for(tmp_path: Path) -> None:
    damages: list[Damage] = []
    path = written(
        tmp_path / "f",
        ["m 1 1", "m", "m 2 2", "x" * (spool_file.MOST_LINE_BYTES + spool_file.BLOCK_BYTES), "m 3 3"],
        end="m 4",
    )
    state = spool_all(tmp_path / "spool", path, damaged=damages.append)
    assert [(damage.line, damage.reason) for damage in damages] == [
        (2, "parse"),
        (4, "line_too_long"),
        (6, "truncated"),
    ]
    assert state.damaged == {"parse": 1, "line_too_long": 1, "truncated": 1}
    assert [value for _, _, value in spooled(tmp_path / "spool")] == [1, 2, 3]


def test_a_csv_without_its_columns_is_refused_whatever_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_text("name,time,value\n")
    with pytest.raises(DamagedFileError, match=r"f\.csv:1: the header lacks metric"):
        spool_all(tmp_path / "spool", path, damaged=lambda _: None)


@pytest.mark.parametrize("block_bytes", [1, 3, 1_000])
def test_blocks_are_whole_lines_with_their_offsets(monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> None:
    monkeypatch.setattr(spool_file, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(spool_file, "MOST_LINE_BYTES", 8)
    text = b"one\n\n" + b"x" * 20 + b"\ntwo\nrest"
    blocks = LineBlocks(io.BytesIO(text))
    found = list(blocks)
    assert b"".join(block.lines or b"?\n" for block in found).replace(b"x" * 20, b"?") == b"one\n\n?\ntwo\n"
    assert found[-1].offset == text.index(b"rest")
    assert blocks.rest == b"rest"


def test_the_interval_is_the_median_distance_of_a_source(tmp_path: Path) -> None:
    lines = [f'm{{job="a"}} 1 {NOW_SECONDS - 15 * number}.{number % 3}' for number in range(50)]
    lines += [f'm{{job="b",n="{number % 3}"}} 1 {NOW_SECONDS - 3_600 * number}' for number in range(50)]
    random.Random(3).shuffle(lines)  # noqa: S311 - a test's own randomness
    state = spool_all(tmp_path / "spool", written(tmp_path / "f", lines))
    assert median_interval(state.distances["a"]) == timedelta(seconds=15)
    assert median_interval(state.distances["b"]) == timedelta(hours=3)
    assert median_interval({}) == DEFAULT_INTERVAL


def test_a_file_is_known_by_what_it_is_and_how_it_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "f", ["m 1 1"])
    file = HistoryFile.of(str(path), None)
    before = file.identity("")
    assert before == file.identity("")
    assert before != file.identity("other")
    os.utime(path, (1, 1))
    assert before != file.identity("")
    assert HistoryFile.of("-", None).identity() != HistoryFile.of("-", None).identity()
    with pytest.raises(UsageError, match="no file"):
        HistoryFile.of(str(tmp_path), None)


def held(root: Path, waiting: Callable[[], None]) -> AbstractContextManager[Path]:
    return held_spool(root, "one", waiting=waiting)


def test_a_second_import_of_a_file_waits_until_the_first_has_ended(tmp_path: Path) -> None:
    with held(tmp_path, pytest.fail) as first:
        (first / "part").touch()

        def end_first() -> None:
            remove_spool(first)

        class Done(Exception):  # noqa: N818 - it is not an error
            pass

        def waiting() -> None:
            end_first()
            raise Done

        with pytest.raises(Done), held(tmp_path, waiting):
            pytest.fail("two hold it")
    assert list(tmp_path.iterdir()) == []
    with held(tmp_path, pytest.fail) as again:
        assert list(again.iterdir()) == []


def test_a_spool_that_was_interrupted_stays_and_a_forgotten_one_goes(tmp_path: Path) -> None:
    with held(tmp_path, pytest.fail) as spooled_here:
        (spooled_here / "part").touch()
    now = (tmp_path / "one").stat().st_mtime
    assert remove_forgotten(tmp_path, now_seconds=now + FORGOTTEN_AFTER.total_seconds() / 2) == []
    assert (tmp_path / "one" / "part").exists()
    with held(tmp_path, pytest.fail):
        assert remove_forgotten(tmp_path, now_seconds=now + FORGOTTEN_AFTER.total_seconds() * 2) == []
    assert remove_forgotten(tmp_path, now_seconds=now + FORGOTTEN_AFTER.total_seconds() * 2) == ["one"]
    assert list(tmp_path.iterdir()) == []


def test_memory_stays_bounded_whatever_the_size(tmp_path: Path) -> None:
    """What is held between parts is what grows with series, not with samples."""
    path = written(tmp_path / "f", [f"m {n} {NOW_SECONDS - n}" for n in range(20_000)])
    held_samples: list[int] = []
    writer = SpoolWriter.go_on(tmp_path, source=None)
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr(spool, "PART_SAMPLES", 1_000)
        patch.setattr(spool_file, "BLOCK_BYTES", 4_096)
        file = HistoryFile.of(str(path), None)
        Spooling(file, writer, Limits(), pytest.fail, lambda _: held_samples.append(writer._buffered)).run(lambda: NOW)
    assert max(held_samples) < 1_500
    assert np.sum([len(part.keys) for part in SpoolReader.open(tmp_path).parts]) > 300
