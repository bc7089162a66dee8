"""Our own processes that outlived the `aggregator up` that started them, found by a mark in their environment."""

from __future__ import annotations

import contextlib
import os
import signal
from datetime import timedelta
from typing import TYPE_CHECKING

import psutil

from aggregator.embedded.process import end_leftovers

if TYPE_CHECKING:
    from pathlib import Path

#: Its value is the data directory. No AGGREGATOR_ in front: it is no setting, and unknown settings are refused.
SUPERVISED_VARIABLE = "SUPERVISED_BY_AGGREGATOR_UP"
_STEPS = ((signal.SIGTERM, timedelta(seconds=3)),)


def end_supervised(data_dir: Path) -> None:
    """End every process that an `aggregator up` on this data directory has started: TERM, then KILL."""
    end_leftovers(lambda: _supervised(str(data_dir)), *_STEPS)


def _supervised(data_dir: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            is_other = process.pid != os.getpid() and process.uids().real == os.getuid()
            if is_other and process.environ().get(SUPERVISED_VARIABLE) == data_dir and _runs(process):
                found.append(process)
    return found


def _runs(process: psutil.Process) -> bool:
    return process.status() != psutil.STATUS_ZOMBIE
