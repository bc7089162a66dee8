"""How much memory each child of a worker may take where a container or a unit limits all of them."""

from __future__ import annotations

from pathlib import Path

#: Of the second version of control groups: a number of bytes, or `max`.
LIMIT_FILE = Path("/sys/fs/cgroup/memory.max")
#: The rest is the parent's, the exporter's, and for what a task takes before it is looked at.
_SHARE_OF_CHILDREN = 0.7
#: A child takes a hundred megabytes to begin with: with less it would be replaced after every task.
_LEAST_KILOBYTES = 200_000


def memory_share(children: int, *, most: int, limit_file: Path = LIMIT_FILE) -> int:
    """Kilobytes for each of so many children, `most` at most: a slow leak is replaced before the kernel kills."""
    try:
        limit_bytes = int(limit_file.read_text(encoding="ascii"))
    except (OSError, ValueError):  # no limit, or none that can be read
        return most
    return min(most, max(_LEAST_KILOBYTES, int(limit_bytes * _SHARE_OF_CHILDREN / 1024 / children)))
