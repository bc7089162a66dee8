"""Clocks that are set forward and back while everything runs: those of machines, not that of PostgreSQL's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path

from tests.acceptance.faults.fault import Fault
from tests.acceptance.faults.scene import Actor, Scene
from tests.acceptance.machines import ROOT

#: In the folder of each machine: how far its clock is off, as libfaketime reads it. Without it the clock is right.
_FILE = "clock"
#: libfaketime takes an absolute time of the monotonic clock, which it does not touch here, for one of the other clock.
_SLEEP = "import select, time\ntime.sleep = lambda seconds: select.select([], [], [], seconds) and None\n"
_LIBRARY = "faketime/libfaketimeMT.so.1"


def library() -> Path | None:
    """Where libfaketime of the system's package is."""
    return next(Path("/usr/lib").glob(f"*/{_LIBRARY}"), None)


def environment(faketime: Path, folder: Path) -> Mapping[str, str]:
    """The variables of processes whose clock can be set; `folder`: a place for a file of theirs."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_SLEEP)
    return {
        "LD_PRELOAD": str(faketime),
        "FAKETIME_TIMESTAMP_FILE": _FILE,
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "PYTHONPATH": f"{folder}:{ROOT}",
    }


def _set(choose: Callable[[Scene], list[Actor]], offset: str) -> Callable[[Scene], None]:
    def work(scene: Scene) -> None:
        for actor in choose(scene):
            (actor.machine.folder / _FILE).write_text(offset)

    return work


def _all(scene: Scene) -> list[Actor]:
    return scene.actors


def _second(scene: Scene) -> list[Actor]:
    return scene.workers[1:]


def _is_said(scene: Scene) -> bool:
    """Whether a worker has said that its clock is wrong; it says so once a minute."""
    return "clock_differs" in scene.said()


def _fault(name: str, expected: str, choose: Callable[[Scene], list[Actor]], offset: str) -> Fault:
    return Fault(
        name,
        expected,
        _set(choose, offset),
        _set(choose, "+0"),
        lasts=timedelta(seconds=5),
        is_restorable=False,
        shows=_is_said,
    )


FAULTS = (
    _fault(
        "clock of all machines but PostgreSQL's: 1 h ahead, then back",
        "nothing is collected by a wrong clock; all goes on at once when it is right",
        _all,
        "+1h",
    ),
    _fault("clock of all machines but PostgreSQL's: 10 years ahead, then back", "as above", _all, "+3653d"),
    _fault("clock of all machines but PostgreSQL's: 1 h behind, then right", "as above", _all, "-1h"),
    _fault(
        "clock of one of two machines: 5 min ahead, then right",
        "its worker refuses; what it takes from the queue is missed",
        _second,
        "+5m",
    ),
)
