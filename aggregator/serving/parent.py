"""Ending with the parent process, also when that was killed and could say nothing."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def follow_parent(parent: int) -> Callable[[], bool]:
    """Ask Linux for SIGTERM when the parent dies; gives a function that says whether it lives, for everywhere else.

    `parent` is the process id of whoever started this process; 0 follows nobody. Raises SystemExit where the parent
    died before it could be followed.
    """
    if not parent:
        return lambda: True
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit(0)
    return lambda: os.getppid() == parent
