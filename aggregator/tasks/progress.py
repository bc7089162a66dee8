"""What each child of a worker works on right now, in memory that it shares with its parent.

A child that is killed can say nothing any more, and a note in the database would be a transaction for each shard. These
16 bytes are written in a microsecond and outlive the child (docs/adr/0018).
"""

from __future__ import annotations

import mmap
import os
import struct

#: A place for each process id, found by its remainder: children that live at the same time hardly ever share one.
_PLACES = 65_536
_NOTE = struct.Struct("<qq")
_NOTHING = 0

_memory: list[mmap.mmap] = []


def share() -> None:
    """Make the memory, in the parent before it forks. Only pages that are written take any room."""
    if not _memory:
        _memory.append(mmap.mmap(-1, _PLACES * _NOTE.size))


def note(shard_id: int) -> None:
    """Say that this process works on a shard from now on."""
    if _memory:
        pid = os.getpid()
        _NOTE.pack_into(_memory[0], pid % _PLACES * _NOTE.size, pid, shard_id)


def nothing() -> None:
    """Say that this process works on no shard."""
    note(_NOTHING)


def of_process(pid: int) -> int | None:
    """The shard that a process worked on when it last said so; None where it worked on none."""
    if not _memory:
        return None
    noted, shard_id = _NOTE.unpack_from(_memory[0], pid % _PLACES * _NOTE.size)
    return shard_id if noted == pid and shard_id != _NOTHING else None
