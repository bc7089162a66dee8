"""The file of an import: what it is recognized by, and its lines in blocks from any offset on."""

from __future__ import annotations

import gzip
import hashlib
import sys
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from aggregator.errors import UsageError

#: What is read at once: lines of so many bytes stay in a processor's cache while they are taken apart.
BLOCK_BYTES = 1 << 18
#: A longer line is damaged; it is never held as a whole.
MOST_LINE_BYTES = 1 << 20
_IDENTIFYING_BYTES = 1_000_000
STANDARD_INPUT = "-"


class FileFormat(StrEnum):
    """The formats of files with samples."""

    OPENMETRICS = "openmetrics"
    CSV = "csv"


class Block(NamedTuple):
    """Whole lines, each with its line feed (None: a line too long to be read), and the offset behind them."""

    lines: bytes | None
    offset: int


@dataclass(frozen=True)
class HistoryFile:
    """A file of samples, or standard input (`-`); one whose name ends in `.gz` is decompressed on its way."""

    name: str
    file_format: FileFormat

    @classmethod
    def of(cls, name: str, file_format: FileFormat | None) -> HistoryFile:
        """A file by its name, which tells the format where nobody does. Raises UsageError where there is none."""
        if name != STANDARD_INPUT and not Path(name).is_file():
            raise UsageError(f"{name} is no file; name one, or - for standard input")
        is_csv = name.removesuffix(".gz").endswith(".csv")
        return cls(name, file_format or (FileFormat.CSV if is_csv else FileFormat.OPENMETRICS))

    @property
    def is_standard_input(self) -> bool:
        """Whether it can be read only once."""
        return self.name == STANDARD_INPUT

    @property
    def size_bytes(self) -> int | None:
        """Its size; None where nobody knows how much will come."""
        return None if self.is_standard_input or self.name.endswith(".gz") else Path(self.name).stat().st_size

    def identity(self, *options: str) -> str:
        """What the file is recognized by, read with these options: its size, its time, its first and last megabyte.

        Standard input is another one each time.
        """
        if self.is_standard_input:
            return f"stdin-{uuid.uuid4().hex}"
        path = Path(self.name)
        found = path.stat()
        digest = hashlib.blake2b(digest_size=16)
        digest.update("\0".join((str(found.st_size), str(found.st_mtime_ns), self.file_format, *options)).encode())
        with path.open("rb") as file:
            digest.update(file.read(_IDENTIFYING_BYTES))
            file.seek(max(0, found.st_size - _IDENTIFYING_BYTES))
            digest.update(file.read(_IDENTIFYING_BYTES))
        return digest.hexdigest()

    def open(self) -> AbstractContextManager[BinaryIO]:
        """Its bytes, from the beginning."""
        if self.is_standard_input:
            return nullcontext(sys.stdin.buffer)
        if self.name.endswith(".gz"):
            return cast("AbstractContextManager[BinaryIO]", gzip.open(self.name, "rb"))
        return Path(self.name).open("rb")


@dataclass
class LineBlocks:
    """The lines of a stream in blocks, from an offset on. `rest`: what followed the last line feed, in the end."""

    stream: BinaryIO
    offset: int = 0
    rest: bytes = b""
    _is_skipping: bool = field(default=False)

    def __iter__(self) -> Iterator[Block]:
        while block := self.stream.read(BLOCK_BYTES):
            if self._is_skipping:
                skipped, line_feed, block = block.partition(b"\n")
                self.offset += len(skipped) + len(line_feed)
                if not line_feed:
                    continue
                self._is_skipping = False
                yield Block(None, self.offset)
            lines, line_feed, rest = block.rpartition(b"\n")
            if line_feed:
                whole = b"".join((self.rest, lines, line_feed))
                self.offset += len(whole)
                self.rest = rest
                yield Block(whole, self.offset)
            else:
                self.rest += rest
            if len(self.rest) > MOST_LINE_BYTES:
                self.offset += len(self.rest)
                self.rest, self._is_skipping = b"", True
