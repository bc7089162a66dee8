"""Processor times that never fall: the kernel's do, by some ticks, and a fall would be taken for a reset."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from pathlib import Path

log = structlog.get_logger(__name__)

#: Column of `idle` in the times of a processor.
_IDLE = 3
#: A processor whose idle time falls by more was taken offline and came back: its times begin anew.
_RESTARTED_SECONDS = 3

Times = Mapping[str, Sequence[int]]


class CpuFloor:
    """The greatest times that were given for each processor.

    With tickless idle the kernel moves time from `iowait` to `idle` afterwards, so that `iowait` can fall
    (proc_stat(5)). Several processes read the same host in turn: with a `path` they share the floor through that file,
    under a lock, whoever wrote last; without one each knows its own only.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._remembered: tuple[str, Times] = ("", {})

    def raised(self, boot_time: str, times: Times) -> dict[str, list[int]]:
        """The times (ticks, by processor), none below what was given before since the same boot."""
        result = self._raised_by_file(boot_time, times) or _raise(self._remembered, boot_time, times)
        self._remembered = (boot_time, result)
        return result

    def _raised_by_file(self, boot_time: str, times: Times) -> dict[str, list[int]] | None:
        if self._path is None:
            return None
        try:
            with os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                result = _raise(_loaded(file.read()), boot_time, times)
                file.seek(0)
                file.truncate()
                json.dump([boot_time, result], file)
        except OSError as error:  # no right, no space: what this process itself remembers is better than nothing
            log.warning("cpu_floor_not_shared", path=str(self._path), error=str(error))
            return None
        return result


def _raise(remembered: tuple[str, Times], boot_time: str, times: Times) -> dict[str, list[int]]:
    remembered_boot_time, floor = remembered
    if remembered_boot_time != boot_time:
        return {cpu: list(now) for cpu, now in times.items()}
    return {cpu: _raise_one(floor.get(cpu, ()), now) for cpu, now in times.items()}


def _raise_one(floor: Sequence[int], now: Sequence[int]) -> list[int]:
    restarted_ticks = _RESTARTED_SECONDS * os.sysconf("SC_CLK_TCK")
    if len(floor) != len(now) or floor[_IDLE] - now[_IDLE] > restarted_ticks:
        return list(now)
    return [max(pair) for pair in zip(floor, now, strict=True)]


def _loaded(text: str) -> tuple[str, Times]:
    try:
        boot_time, times = json.loads(text)
        return str(boot_time), {str(cpu): [int(value) for value in values] for cpu, values in times.items()}
    except (ValueError, TypeError, AttributeError):  # empty at first; garbage after a crash: begin anew
        return "", {}
