"""Size and free space of file systems; one that does not answer holds up nothing."""

from __future__ import annotations

import os
import time
from threading import Thread
from typing import TYPE_CHECKING

from aggregator.collectors.host.mounts import Mount, read_mounts
from aggregator.collectors.placing import Sample, gauge

if TYPE_CHECKING:
    from collections.abc import Iterator

#: What all remote file systems together may take of a collection.
REMOTE_PATIENCE_SECONDS = 0.5


class FileSystems:
    """Asks local file systems directly, and each other one in a daemon thread of its own.

    A thread that a dead server holds (NFS, mounted hard) is left behind, and its mount is not asked again until the
    thread has come back: at most one thread for each mount, and no collection that waits for it twice.
    """

    def __init__(self) -> None:
        self._asked: dict[bytes, _Question] = {}

    def read(self) -> Iterator[Sample]:
        """Samples of every mount; one that refuses or does not answer has only `node_filesystem_device_error`, 1."""
        mounts = list(read_mounts())
        for mount in mounts:
            if not mount.is_local and mount.path not in self._asked:
                self._asked[mount.path] = _Question(mount.path)
        patience_ends = time.monotonic() + REMOTE_PATIENCE_SECONDS
        for mount in mounts:
            status = _status(mount.path) if mount.is_local else self._answer(mount.path, patience_ends)
            yield from _samples(mount, status)

    def _answer(self, path: bytes, patience_ends: float) -> os.statvfs_result | None:
        question = self._asked[path]
        if question.is_late:  # it has used up its patience before
            patience_ends = 0
        question.thread.join(max(0, patience_ends - time.monotonic()))
        question.is_late = question.thread.is_alive()
        if question.is_late:
            return None
        del self._asked[path]
        return question.status


class _Question:
    """One `statvfs` under way."""

    def __init__(self, path: bytes) -> None:
        self.status: os.statvfs_result | None = None
        self.is_late = False
        self._path = path
        self.thread = Thread(target=self._ask, name="statvfs", daemon=True)
        self.thread.start()

    def _ask(self) -> None:
        self.status = _status(self._path)


def _status(path: bytes) -> os.statvfs_result | None:
    try:
        return os.statvfs(path)
    except OSError:
        return None


def _samples(mount: Mount, status: os.statvfs_result | None) -> Iterator[Sample]:
    labels = {"device": mount.device, "fstype": mount.file_system, "mountpoint": mount.mount_point}
    yield gauge("node_filesystem_device_error", float(status is None), **labels)
    if status is None:
        return
    yield gauge("node_filesystem_readonly", float(mount.is_read_only), **labels)
    yield gauge("node_filesystem_size_bytes", status.f_blocks * status.f_frsize, **labels)
    yield gauge("node_filesystem_free_bytes", status.f_bfree * status.f_frsize, **labels)
    yield gauge("node_filesystem_avail_bytes", status.f_bavail * status.f_frsize, **labels)
    yield gauge("node_filesystem_files", status.f_files, **labels)
    yield gauge("node_filesystem_files_free", status.f_ffree, **labels)
