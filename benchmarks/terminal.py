"""A terminal that nobody looks at, for programs that draw on one."""

from __future__ import annotations

import os
import pty
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import BinaryIO

LINES, COLUMNS = 50, 120
_READ_BYTES = 65_536
_LAST_WORDS_SECONDS = 5.0


@contextmanager
def unseen_terminal(copy: BinaryIO) -> Iterator[BinaryIO]:
    """What a program's standard output can be; `copy` gets all that is drawn.

    Leave it after the program has ended: a terminal that is gone would end it.
    """
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (LINES, COLUMNS))
    reader = Thread(target=_drain, args=(ours, copy), daemon=True)
    reader.start()
    with os.fdopen(theirs, "wb", buffering=0) as output:
        yield output
    reader.join(timeout=_LAST_WORDS_SECONDS)
    os.close(ours)


def _drain(descriptor: int, copy: BinaryIO) -> None:
    # Linux reports the end of a terminal as an input/output error.
    with suppress(OSError):
        while drawn := os.read(descriptor, _READ_BYTES):
            copy.write(drawn)
