"""Which file systems are mounted here, and which of them are worth a measurement."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from aggregator.collectors.host.procfs import PROC

if TYPE_CHECKING:
    from collections.abc import Iterator

#: node_exporter's defaults: pseudo file systems, and mount points that are not the host's own.
EXCLUDED_TYPES = (
    r"^(autofs|binfmt_misc|bpf|cgroup2?|configfs|debugfs|devpts|devtmpfs|fusectl|hugetlbfs|iso9660|mqueue|nsfs|overlay|proc"
    r"|procfs|pstore|rpc_pipefs|securityfs|selinuxfs|squashfs|erofs|sysfs|tracefs)$"
)
EXCLUDED_MOUNT_POINTS = r"^/(dev|proc|run/credentials/.+|sys|var/lib/docker/.+|var/lib/containers/storage/.+)($|/)"
_excluded_type = re.compile(EXCLUDED_TYPES)
_excluded_mount_point = re.compile(EXCLUDED_MOUNT_POINTS)
_OCTAL = re.compile(rb"\\([0-7]{3})")
#: What answers from this machine's memory or disks, and so at once. All others (NFS, CIFS, FUSE, ...) may never answer.
_LOCAL_TYPES = frozenset(
    (
        "ext2",
        "ext3",
        "ext4",
        "xfs",
        "btrfs",
        "zfs",
        "f2fs",
        "bcachefs",
        "jfs",
        "reiserfs",
        "tmpfs",
        "ramfs",
        "vfat",
        "apfs",
    )
)


@dataclass(frozen=True)
class Mount:
    """One mounted file system. `path` is what the system calls its mount point; the others are text for labels."""

    device: str
    mount_point: str
    file_system: str
    path: bytes
    is_read_only: bool

    @property
    def is_local(self) -> bool:
        """Whether asking it for its size cannot hang on another machine or process."""
        return self.file_system in _LOCAL_TYPES


def read_mounts() -> Iterator[Mount]:
    """The mounts of this process' name space, without the excluded ones; each (device, mount point, type) once."""
    found = _of_proc() if (PROC / "self/mounts").exists() else _portable()
    seen = {(mount.device, mount.mount_point, mount.file_system): mount for mount in found if _is_wanted(mount)}
    yield from seen.values()


def _is_wanted(mount: Mount) -> bool:
    return not _excluded_type.match(mount.file_system) and not _excluded_mount_point.match(mount.mount_point)


def _of_proc() -> Iterator[Mount]:
    # psutil replaces /dev/root and "none" by names of its own, so that labels would differ from node_exporter's.
    for line in (PROC / "self/mounts").read_bytes().splitlines():
        device, path, file_system, options = (_unescaped(part) for part in line.split(b" ")[:4])
        yield Mount(
            device.decode(errors="replace"),
            path.decode(errors="replace"),
            file_system.decode(errors="replace"),
            path,
            b"ro" in options.split(b","),
        )


def _unescaped(field: bytes) -> bytes:
    return _OCTAL.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), field)


def _portable() -> Iterator[Mount]:
    for part in psutil.disk_partitions(all=True):
        yield Mount(part.device, part.mountpoint, part.fstype, part.mountpoint.encode(), "ro" in part.opts.split(","))
