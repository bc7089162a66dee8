"""Where spools lie: a directory for each file, held by one process at a time, removed when done or forgotten."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

#: The spool of an import that nobody has gone on with for so long is removed by the next import.
FORGOTTEN_AFTER = timedelta(days=7)
_LOCK = ".lock"
_LOOK_AGAIN_SECONDS = 0.2


@contextmanager
def held_spool(root: Path, identity: str, *, waiting: Callable[[], None]) -> Iterator[Path]:
    """The spool's directory, made if need be and held until the end; `waiting` is called once if another one holds it.

    The lock dies with its owner. Whoever is done removes the directory (`remove_spool`) while it is held.
    """
    root.mkdir(parents=True, exist_ok=True)
    lock = root / (identity + _LOCK)
    descriptor = _locked(lock, waiting=waiting)
    try:
        directory = root / identity
        directory.mkdir(exist_ok=True)
        os.utime(directory)
        yield directory
    finally:
        if not (root / identity).exists():
            lock.unlink(missing_ok=True)  # while it is held: see _locked
        os.close(descriptor)


def remove_spool(directory: Path) -> None:
    """Remove a held spool."""
    shutil.rmtree(directory)


def remove_forgotten(root: Path, *, now_seconds: float) -> list[str]:
    """Remove spools that nobody holds and nobody has touched for `FORGOTTEN_AFTER`; gives their names.

    `now_seconds`: seconds since 1970, as file systems count.
    """
    removed = []
    for lock in sorted(root.glob(f"*{_LOCK}")):
        directory = lock.with_suffix("")
        if now_seconds - _last_touched(directory, lock) < FORGOTTEN_AFTER.total_seconds():
            continue
        descriptor = _try_lock(lock)
        if descriptor is not None:
            shutil.rmtree(directory, ignore_errors=True)
            lock.unlink(missing_ok=True)
            os.close(descriptor)
            removed.append(directory.name)
    return removed


def _last_touched(directory: Path, lock: Path) -> float:
    places = (directory, *directory.glob("*")) if directory.exists() else (lock,)
    return max((place.stat().st_mtime for place in places if place.exists()), default=0.0)


def _locked(path: Path, *, waiting: Callable[[], None]) -> int:
    has_said = False
    while (descriptor := _try_lock(path)) is None:
        if not has_said:
            waiting()
            has_said = True
        time.sleep(_LOOK_AGAIN_SECONDS)
    return descriptor


def _try_lock(path: Path) -> int | None:
    """The descriptor of the locked file; None where another process holds it, or has just removed it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.stat().st_ino == os.fstat(descriptor).st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None
