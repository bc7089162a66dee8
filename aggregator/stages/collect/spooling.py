"""The first phase of an import: a file is read to its end, checked, and spooled; nothing of it is stored yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import BinaryIO

from aggregator.config.source_model import Limits
from aggregator.errors import DamagedFileError, RejectedError
from aggregator.exposition.history import Damage, HistoryReader
from aggregator.exposition.history_csv import CsvHistory
from aggregator.exposition.history_openmetrics import OpenMetricsHistory
from aggregator.rollups.buckets import milliseconds
from aggregator.stages.collect.spool import SpoolWriter
from aggregator.stages.collect.spool_file import MOST_LINE_BYTES, Block, FileFormat, HistoryFile, LineBlocks
from aggregator.stages.collect.spool_parts import State


@dataclass
class Spooling:
    """Reads one file into one spool.

    `damaged` is told of each damaged line, and raises an error where that is to end the import; `progress` is told of
    the state after each block.
    """

    file: HistoryFile
    writer: SpoolWriter
    limits: Limits
    damaged: Callable[[Damage], None]
    progress: Callable[[State], None]

    def run(self, clock: Callable[[], datetime]) -> State:
        """Read on from where the last part ended, to the end of the file; gives the state after it.

        Raises DamagedFileError for a file without a header, and whatever `damaged` raises.
        """
        if self.writer.state.is_complete:
            return self.writer.state
        with self.file.open() as stream:
            header = stream.readline(MOST_LINE_BYTES) if self.file.file_format is FileFormat.CSV else b""
            reader = self._reader(header)
            blocks = LineBlocks(stream, offset=self._begin(stream, len(header)))
            for block in blocks:
                self._read(reader, block, now_ms=milliseconds(clock()))
                if self.writer.is_full:
                    self._flush(reader)
        if (damage := reader.finish(blocks.rest)) is not None:
            self._skip(damage)
        self.writer.state = replace(self.writer.state, is_complete=True)
        self._flush(reader)
        return self.writer.state

    def _begin(self, stream: BinaryIO, header_bytes: int) -> int:
        """Go to where the last part ended; what cannot be read twice begins with no part."""
        if self.writer.state.offset:
            stream.seek(self.writer.state.offset)
        return self.writer.state.offset or header_bytes

    def _reader(self, header: bytes) -> HistoryReader:
        state, series_count = self.writer.state, len(self.writer.targets)
        if self.file.file_format is FileFormat.OPENMETRICS:
            return OpenMetricsHistory(
                self.limits, state.line, series_count, dict(state.types), has_ended=state.has_ended
            )
        try:
            return CsvHistory(self.limits, max(1, state.line), series_count, header=header.rstrip(b"\r\n"))
        except RejectedError as error:
            raise DamagedFileError(f"{self.file.name}:1: {error}; nothing was stored") from None

    def _read(self, reader: HistoryReader, block: Block, *, now_ms: int) -> None:
        if block.lines is None:
            self._skip(reader.skip_line("line_too_long", f"is longer than {MOST_LINE_BYTES} bytes"))
        else:
            piece = reader.read(block.lines)
            for damage in piece.damages:
                self._skip(damage)
            self.writer.add(piece, now_ms=now_ms)
        self.writer.state = replace(self.writer.state, offset=block.offset, line=reader.line)
        self.progress(self.writer.state)

    def _skip(self, damage: Damage) -> None:
        self.damaged(damage)
        self.writer.count_damage(damage.reason)

    def _flush(self, reader: HistoryReader) -> None:
        has_ended = isinstance(reader, OpenMetricsHistory) and reader.has_ended
        self.writer.state = replace(self.writer.state, types=dict(reader.types), has_ended=has_ended)
        self.writer.flush()
