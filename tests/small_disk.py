"""A file system of a test's own, which it may fill."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

#: Below it is every small disk, also those of tests that run beside this one.
MOUNT_POINTS = "^/tmp/aggregator-test-"


@contextmanager
def small_disk(place: Path, *, megabytes: int = 256) -> Iterator[Path]:
    """A small file system in memory; skips the test where this user may not mount one."""
    place.mkdir()
    mount, unmount = shutil.which("mount"), shutil.which("umount")
    if mount is None or unmount is None:
        pytest.skip("mount is not installed")
    mounted = subprocess.run(
        [mount, "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0711", "tmpfs", str(place)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode != 0:
        pytest.skip("this user may not mount a file system of its own")
    try:
        yield place
    finally:
        subprocess.run([unmount, "--lazy", str(place)], check=True)


def fill(place: Path, *, but: int = 0) -> Path:
    """Fill a file system but for some bytes, whoever else writes there meanwhile; gives the file that does."""
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while (left := _free_bytes(place) - but) > 0:
            file.write(bytes(min(left, _CHUNK_BYTES)))
    return filler


_CHUNK_BYTES = 1 << 20


def _free_bytes(place: Path) -> int:
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize
