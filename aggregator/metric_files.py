"""The files in which a node's processes keep their metrics: which can be read, and what becomes of the others."""

from __future__ import annotations

import json
import re
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

QUARANTINE = "quarantine"
#: How many bad files are kept for whoever wants to look; their number goes on counting.
MOST_QUARANTINED_FILES = 10

_FILE_NAME = re.compile(r"(counter|gauge_(livesum|mostrecent)|histogram)_[^_]+\.db")
_INTEGER = struct.Struct("i")
_HEADER_BYTES = 8
_VALUE_BYTES = 16
_NUMBERED = re.compile(r"(\d+)-")


def readable_files(directory: Path) -> list[Path]:
    """The files whose every entry can be read; the others are moved to the folder `quarantine`.

    A file without any entry is left where it is and not listed: its process has just begun it.
    """
    readable = []
    for path in sorted(directory.glob("*.db")):
        try:
            entries = sum(1 for _ in _entries(path))
        except FileNotFoundError:
            continue  # a gauge's file goes with its process
        except (OSError, ValueError, TypeError, AttributeError, struct.error):
            _quarantine(path)
        else:
            readable += [path] if entries else []
    return readable


def quarantined(directory: Path) -> int:
    """How many files have ever been moved to the folder `quarantine`."""
    return max((_number(path) for path in (directory / QUARANTINE).glob("*-*")), default=0)


def _entries(path: Path) -> Iterator[str]:
    """The names in a file; raises ValueError, TypeError, AttributeError or struct.error where it is damaged.

    prometheus_client's layout: how many bytes are used (int32) and four of padding; then for each value the length of
    its key (int32), the key as JSON padded with spaces to a multiple of eight, the value and its time (float64 each).
    """
    if not _FILE_NAME.fullmatch(path.name):
        raise ValueError(f"no process of ours writes a file of this name: {path.name}")
    content = path.read_bytes()
    used = _INTEGER.unpack_from(content)[0] if content else 0
    if not 0 <= used <= len(content):
        raise ValueError(f"{path.name} was cut")
    position = _HEADER_BYTES
    while position < used:
        key_end = position + _INTEGER.size + _INTEGER.unpack_from(content, position)[0]
        metric, name, labels, help_text = json.loads(content[position + _INTEGER.size : key_end])
        if not all(isinstance(text, str) for text in (metric, name, help_text, *labels.values())):
            raise ValueError(f"an entry of {path.name} is none of ours")
        yield name
        position = key_end + 8 - (key_end - position) % 8 + _VALUE_BYTES
    if position > max(used, _HEADER_BYTES):
        raise ValueError(f"the last entry of {path.name} was cut")


def _quarantine(path: Path) -> None:
    folder = path.parent / QUARANTINE
    folder.mkdir(exist_ok=True)
    number = quarantined(path.parent) + 1
    with suppress(FileNotFoundError):
        path.rename(folder / f"{number}-{path.name}")
    for old in folder.glob("*-*"):
        if _number(old) <= number - MOST_QUARANTINED_FILES:
            old.unlink(missing_ok=True)


def _number(path: Path) -> int:
    number = _NUMBERED.match(path.name)
    return int(number[1]) if number else 0
