"""Whether processes that a test has ended, or that ought to have ended by themselves, are gone."""

from __future__ import annotations

import psutil


def has_ended(process_id: int) -> bool:
    """Whether a process is gone, or is only a zombie that its parent has not reaped yet."""
    try:
        return psutil.Process(process_id).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
