"""Why a server did not start, from what it wrote, as one line with a remedy."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from aggregator.errors import EnvironmentRefusedError

if TYPE_CHECKING:
    from pathlib import Path

_TAIL_BYTES = 8_192
_REASON = re.compile(r"(?:FATAL|PANIC|ERROR|error|Fatal error|Bad file format)\b[:,]?\s*(.*)")

_REMEDIES = (
    ("No space left on device", "free some space there, or name another place with --data-dir"),
    ("Disk quota exceeded", "free some of the quota, or name another place with --data-dir"),
    ("Read-only file system", "name a place that can be written to with --data-dir"),
    ("Permission denied", "make it accessible to the user who starts this, or name another place with --data-dir"),
    ("Address already in use", "stop what listens there, or set AGGREGATOR_POSTGRES_PORT to a free port"),
    ("could not create shared memory segment", "give this machine or container more shared memory"),
    ("Cannot allocate memory", "free some memory"),
)


def explain_failure(what: str, log: str, *, place: Path) -> EnvironmentRefusedError:
    """The error that says which server failed, the reason that it gave, where its files lie, and what to do."""
    reason = _reason(log)
    remedy = next((remedy for symptom, remedy in _REMEDIES if symptom in log), "its log says more")
    return EnvironmentRefusedError(f"{what} failed in {place}: {reason}; {remedy}")


def _reason(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    for line in lines:
        found = _REASON.search(line)
        if found and found[1]:
            return found[1].rstrip(".;")
    return lines[-1].rstrip(".;") if lines else "it said nothing"


def log_since(path: Path, offset: int) -> str:
    """What was written to a log from a byte offset on, at most its last 8 kB."""
    with path.open("rb") as log:
        size = log.seek(0, 2)
        log.seek(max(offset, size - _TAIL_BYTES))
        return log.read().decode("utf-8", errors="replace")
