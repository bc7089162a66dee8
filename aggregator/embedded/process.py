"""Starting processes that never outlive this one, ending them, and finding those that did."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING, BinaryIO

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from aggregator.embedded.account import Account

_PR_SET_PDEATHSIG = 1
POLL_SECONDS = 0.01


def start_process(
    argv: Sequence[str],
    *,
    output: BinaryIO,
    environment: Mapping[str, str],
    parent_death_signal: signal.Signals,
    account: Account | None = None,
    directory: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, so that a Ctrl-C reaches only us, and we decide the order.

    The kernel sends it `parent_death_signal` when the thread that called this ends: call it from the main thread.
    """
    other = account is not None and account.is_other
    return subprocess.Popen(
        list(argv),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=dict(environment),
        cwd=directory,
        start_new_session=True,
        user=account.user_id if account and other else None,
        group=account.group_id if account and other else None,
        extra_groups=[] if other else None,
        preexec_fn=_tie_to_parent(parent_death_signal),  # noqa: PLW1509 - no thread of ours holds a lock here
    )


def _tie_to_parent(death_signal: signal.Signals) -> Callable[[], None] | None:
    """What the child runs after its change of user (which would undo it) and before exec; Linux only."""
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:  # it died before the call
            os.kill(os.getpid(), signal.SIGKILL)

    return tie


def end_process(
    process: subprocess.Popen[bytes],
    *steps: tuple[signal.Signals, timedelta],
    is_hurried: Callable[[], bool] = lambda: False,
) -> None:
    """Send each signal in turn and wait its time for the end; at last SIGKILL, also for what is left of its session.

    Once `is_hurried` the next signal is sent without waiting further.
    """
    for number, patience in steps:
        if process.poll() is not None:
            break
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        wait_until(lambda: process.poll() is not None or is_hurried(), patience)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def processes_in(directory: Path, *, name: str, mark: str | None = None) -> list[psutil.Process]:
    """The processes of that name that work in the directory: a server's, and its children that outlived it.

    Also those whose command line holds `mark`: without CAP_SYS_PTRACE, as in most containers, root may not see in
    which directory another user's process works.
    """
    wanted = os.path.realpath(directory)
    candidates = (process for process in psutil.process_iter(["name"]) if process.info["name"] == name)
    return [one for one in candidates if not _is_zombie(one) and (_works_in(one, wanted) or _mentions(one, mark))]


def _is_zombie(process: psutil.Process) -> bool:
    """Whether it has ended and only its parent does not know yet; so too if it has vanished meanwhile."""
    with contextlib.suppress(psutil.Error):
        return process.status() == psutil.STATUS_ZOMBIE
    return True


def _works_in(process: psutil.Process, directory: str) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.cwd() == directory
    return False


def _mentions(process: psutil.Process, mark: str | None) -> bool:
    with contextlib.suppress(psutil.Error):
        return mark is not None and mark in " ".join(process.cmdline())
    return False


def end_leftovers(find: Callable[[], list[psutil.Process]], *steps: tuple[signal.Signals, timedelta]) -> None:
    """End what an earlier run left behind: each signal in turn to all that `find` still finds, then SIGKILL."""
    for number, patience in (*steps, (signal.SIGKILL, timedelta(seconds=5))):
        for process in find():
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)
        if wait_until(lambda: not find(), patience):
            return


def wait_until(condition: Callable[[], bool], patience: timedelta) -> bool:
    """Whether the condition came true in time; it is looked at every 10 ms."""
    deadline = time.monotonic() + patience.total_seconds()
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True
