"""One `aggregator up` per data directory: a lock that dies with its owner."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from aggregator.errors import EnvironmentRefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FILE_NAME = "up.lock"


@contextmanager
def data_directory_lock(data_dir: Path) -> Iterator[bool]:
    """Hold the data directory; yields whether the run before this one ended without cleaning up.

    Raises EnvironmentRefusedError at once where another process holds it.
    """
    path = data_dir / _FILE_NAME
    was_left = path.exists()
    descriptor = _acquired(path)
    try:
        os.truncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield was_left
    finally:
        path.unlink(missing_ok=True)  # while it is held: see _acquired
        os.close(descriptor)


def _acquired(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode(errors="replace").strip()
            os.close(descriptor)
            raise EnvironmentRefusedError(
                f"`aggregator up` runs already on {path.parent} (process {holder or 'unknown'});"
                " stop it, or name another place with --data-dir"
            ) from None
        if _is_still(path, descriptor):
            return descriptor
        os.close(descriptor)  # its holder removed it between our open and our lock


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
