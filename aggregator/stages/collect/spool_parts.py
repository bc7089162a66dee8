"""The parts of an import's spool: samples on disk, each part sorted by day, target and minute, with an index."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aggregator.exposition.strict import Named

#: A key is day, target and minute of the day in one integer, in that order: a range of keys is what is read at once.
MINUTE_KEY = 1
TARGET_KEY = 1 << 11
DAY_KEY = 1 << 31
MOST_TARGETS = DAY_KEY // TARGET_KEY
_MINUTE_MS = 60_000
_DAY_MINUTES = 1_440
_ARRAYS = ("at_ms", "series", "values", "keys", "starts")
_STATE = "state.json"
_SERIES = "series.jsonl"


@dataclass(frozen=True)
class Samples:
    """Samples in the order of the file: `series` (int64) as the file's reader counts them, `at_ms` int64, `values`."""

    series: npt.NDArray[np.int64]
    at_ms: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.values)

    @classmethod
    def joined(cls, pieces: list[Samples]) -> Samples:
        """Several in one, one after the other."""
        return cls(
            np.concatenate([piece.series for piece in pieces] or [np.zeros(0, np.int64)]),
            np.concatenate([piece.at_ms for piece in pieces] or [np.zeros(0, np.int64)]),
            np.concatenate([piece.values for piece in pieces] or [np.zeros(0)]),
        )

    def chosen(self, places: npt.NDArray[Any]) -> Samples:
        """Those at these places, or where a mask is true."""
        return Samples(self.series[places], self.at_ms[places], self.values[places])


@dataclass(frozen=True)
class State:
    """How far a file has been read when a part was complete; all counts are of the file from its beginning."""

    offset: int = 0
    line: int = 0
    samples: int = 0
    nans: int = 0
    is_complete: bool = False
    has_ended: bool = False
    types: dict[str, str] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    damaged: dict[str, int] = field(default_factory=dict)
    #: How often the samples of a series lay so many seconds apart, by the source that they go to.
    distances: dict[str, dict[str, int]] = field(default_factory=dict)


def keys_of(at_ms: npt.NDArray[np.int64], targets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The key of each sample, from its instant and the number of its target."""
    minutes = at_ms // _MINUTE_MS
    days = minutes // _DAY_MINUTES
    return days * DAY_KEY + targets * TARGET_KEY + (minutes - days * _DAY_MINUTES)


@dataclass
class Part:
    """A part on disk; only what is asked for is read."""

    directory: Path
    keys: npt.NDArray[np.int64]
    #: Where the samples of each key begin, and after the last one where they end.
    starts: npt.NDArray[np.int64]

    @classmethod
    def open(cls, directory: Path) -> Part:
        """Open a complete part."""
        return cls(directory, _mapped(directory, "keys"), _mapped(directory, "starts"))

    def bounds(self, since: int, until: int) -> tuple[int, int]:
        """Where the samples with keys in the half-open range begin and end."""
        first, last = np.searchsorted(self.keys, (since, until))
        return int(self.starts[first]), int(self.starts[last])

    def read(self, since: int, until: int) -> Samples | None:
        """The samples with keys in the half-open range; None where there are none."""
        begin, end = self.bounds(since, until)
        if begin == end:
            return None
        at_ms, series, values = (np.array(_mapped(self.directory, name)[begin:end]) for name in _ARRAYS[:3])
        return Samples(series.astype(np.int64), at_ms, values)


def _mapped(directory: Path, name: str) -> npt.NDArray[Any]:
    loaded: npt.NDArray[Any] = np.load(directory / f"{name}.npy", mmap_mode="r")
    return loaded


def write_part(root: Path, samples: Samples, keys: npt.NDArray[np.int64], *, named: list[Named], state: State) -> None:
    """Add a part, with the series that are new in it: whole, or after a crash not at all.

    Samples of one key keep their order: of two for one instant the later one counts.
    """
    order = np.argsort(keys, kind="stable")
    distinct, starts = np.unique(keys[order], return_index=True)
    unfinished = root / "unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    arrays: tuple[npt.NDArray[Any], ...] = (
        samples.at_ms[order],
        samples.series[order].astype(np.uint32),
        samples.values[order],
        distinct,
        np.append(starts, len(order)),
    )
    for name, array in zip(_ARRAYS, arrays, strict=True):
        with (unfinished / f"{name}.npy").open("wb") as file:
            np.save(file, array)
            _sync(file.fileno())
    with (unfinished / _SERIES).open("w", encoding="utf-8") as file:
        # A line each: written and read without all of them in memory.
        file.writelines(json.dumps(one, ensure_ascii=False, separators=(",", ":")) + "\n" for one in named)
        file.flush()
        _sync(file.fileno())
    write_json(unfinished / _STATE, asdict(state))
    unfinished.rename(root / f"part-{len(part_directories(root)):06d}")


def write_json(path: Path, document: Any) -> None:  # noqa: ANN401 - whatever JSON can hold
    """Write a document whole, or after a crash not at all."""
    beside = path.with_suffix(".new")
    with beside.open("w", encoding="utf-8") as file:
        json.dump(document, file, ensure_ascii=False, separators=(",", ":"))
        file.flush()
        _sync(file.fileno())
    beside.rename(path)


def _sync(descriptor: int) -> None:
    os.fsync(descriptor)


def part_directories(root: Path) -> list[Path]:
    """The complete parts, oldest first."""
    return sorted(root.glob("part-*"))


def read_state(root: Path) -> State:
    """The state after the last complete part."""
    directories = part_directories(root)
    if not directories:
        return State()
    return State(**json.loads((directories[-1] / _STATE).read_text(encoding="utf-8")))


def read_series(root: Path) -> Iterator[Named]:
    """The series that the parts have brought, in order."""
    for directory in part_directories(root):
        with (directory / _SERIES).open(encoding="utf-8") as file:
            for line in file:
                metric, labels = json.loads(line)
                yield metric, tuple((name, text) for name, text in labels)
