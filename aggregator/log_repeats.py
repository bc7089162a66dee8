"""A line that comes again and again: written once a minute, with how often it came in between."""

from __future__ import annotations

import copy
import logging
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass

PERIOD_SECONDS = 60.0
#: So many different lines are remembered; beyond, the one of longest standing is forgotten.
MOST_KEYS = 1_000
#: They differ each time and say nothing of what happened: two lines that differ in no other field are the same.
_VOLATILE = frozenset({"timestamp", "task_id", "slot", "attempt", "retry_at", "started_at"})


@dataclass
class _Seen:
    """A line since it was last written: until when it is held back, and the newest of those that were."""

    until: float
    repeated: int = 0
    newest: logging.LogRecord | None = None


class RepeatsHandler(logging.StreamHandler):  # type: ignore[type-arg] # its stream is any
    """Writes to stderr; of lines that are the same in all that matters, one in each period.

    What was held back is said in a line of its own when the period is over, as soon as anything is logged, with
    `repeated`: how many lines it stands for. A line that differs in any field that tells something is always written.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(sys.stderr)
        self._clock = clock
        self._seen: OrderedDict[Hashable, _Seen] = OrderedDict()
        self._process_id = os.getpid()

    def emit(self, record: logging.LogRecord) -> None:
        """Write what is due, and this record unless it is held back."""
        if self._process_id != os.getpid():  # a fork: what the parent held back the parent says
            self._seen.clear()
            self._process_id = os.getpid()
        now = self._clock()
        for due in self._over(now):
            super().emit(due)
        if record.levelno <= logging.DEBUG or self._is_first(record, now):
            super().emit(record)

    def close(self) -> None:
        """Write what was held back before the process ends."""
        if self._process_id == os.getpid() and not self.stream.closed:
            for due in self._over(float("inf")):
                super().emit(due)
        super().close()

    def _over(self, now: float) -> Iterator[logging.LogRecord]:
        """Forget the lines whose period is over; gives the newest of each that was held back."""
        while self._seen:
            key, seen = next(iter(self._seen.items()))
            if seen.until > now and len(self._seen) <= MOST_KEYS:
                return
            del self._seen[key]
            if seen.newest is not None:
                yield _with_count(seen.newest, seen.repeated)

    def _is_first(self, record: logging.LogRecord, now: float) -> bool:
        key = _key(record)
        seen = self._seen.get(key)
        if seen is None:
            # In the order of their ends, for all periods are equally long.
            self._seen[key] = _Seen(now + PERIOD_SECONDS)
            return True
        seen.repeated += 1
        seen.newest = record
        return False


def _key(record: logging.LogRecord) -> Hashable:
    """What makes two lines the same: who says it, how loud, and what; a library's line by its text."""
    fields = record.msg
    if isinstance(fields, Mapping):
        said = tuple(sorted((name, repr(value)) for name, value in fields.items() if name not in _VOLATILE))
        return record.name, record.levelno, hash(said)
    error = record.exc_info[1] if record.exc_info else None
    return record.name, record.levelno, hash((record.getMessage(), repr(error)))


def _with_count(record: logging.LogRecord, repeated: int) -> logging.LogRecord:
    """The record with how many it stands for; a copy, for other handlers have it too."""
    counted = copy.copy(record)
    if isinstance(record.msg, Mapping):
        counted.msg = {**record.msg, "repeated": repeated}
    else:
        counted.repeated = repeated
    return counted
