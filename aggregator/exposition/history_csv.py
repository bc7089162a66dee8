"""CSV of samples: a line each, with columns `metric`, `time` and `value`; the other columns are labels."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from aggregator.errors import RejectedError
from aggregator.exposition.history import Cut, Damage, HistoryReader, StrictSample
from aggregator.exposition.history_numbers import read_instant, read_instants, read_seconds, read_values
from aggregator.exposition.lines import cut_openmetrics_sample

_REQUIRED = ("metric", "time", "value")
#: The column that may hold several labels, as a JSON object.
_LABELS = "labels"
_PLAIN_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_MOST_CHARACTERS_SHOWN = 80


@dataclass
class CsvHistory(HistoryReader):
    """A record is a line: a quoted field may hold commas and doubled quotes, and no line feed.

    `header` is the file's first line, without its line feed; lines are counted from there. Times are seconds since
    1970, with decimals, or ISO 8601 with an offset.
    """

    header: bytes = b""
    _columns: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Read the header. Raises RejectedError(`header`)."""
        super().__post_init__()
        self._columns = _read_header(self.header)
        self._is_last_two = {*self._columns[-2:]} == {"time", "value"}
        self._time_place = self._columns.index("time")
        self._value_place = self._columns.index("value")

    def cut(self, lines: Sequence[bytes]) -> Cut:
        """Time and value are cut off from the right where they are the last columns; else each line is taken apart."""
        if not self._is_last_two:
            return self._cut_apart(lines)
        parts = [line.rsplit(b",", 2) for line in lines]
        heads: list[Hashable] = [part[0] if len(part) == len(_REQUIRED) else None for part in parts]
        parts = [part if len(part) == len(_REQUIRED) else [b""] * len(_REQUIRED) for part in parts]
        is_value_last = self._value_place > self._time_place
        before, last = [part[1] for part in parts], [part[2] for part in parts]
        return Cut(heads, last, before) if is_value_last else Cut(heads, before, last)

    def _cut_apart(self, lines: Sequence[bytes]) -> Cut:
        cut = Cut([], [], [])
        for line in lines:
            fields = line.split(b",")
            is_cut = len(fields) == len(self._columns) and b'"' not in line
            cut.values.append(fields[self._value_place] if is_cut else b"")
            cut.times.append(fields[self._time_place] if is_cut else b"")
            cut.heads.append(self._head(fields) if is_cut else None)
        return cut

    def _head(self, fields: Sequence[bytes]) -> Hashable:
        return tuple(text for place, text in enumerate(fields) if place not in (self._time_place, self._value_place))

    def read_times(self, tokens: Sequence[bytes]) -> tuple[npt.NDArray[np.int64], list[int]]:
        """Seconds, or ISO 8601: one or the other in a whole piece, or the strict path reads it."""
        if tokens and (b":" in tokens[0]):
            return read_instants(tokens)
        return read_seconds(tokens)

    def read_line(self, line: bytes) -> StrictSample | None:
        """A record; raises RejectedError with what is wrong with it."""
        fields = _read_record(line)
        if len(fields) != len(self._columns):
            raise RejectedError("parse", f"has {len(fields)} columns; the header has {len(self._columns)}")
        record = dict(zip(self._columns, fields, strict=True))
        at_ms, value = _read_time(record.pop("time")), _read_value(record.pop("value"))
        head = self._head_of(line, fields)
        self.know(head, _prefix(record), line)
        return StrictSample(head, value, at_ms)

    def _head_of(self, line: bytes, fields: Sequence[str]) -> Hashable:
        """What other lines of the series are known by: the very bytes, where they are cut off."""
        cut = self.cut([line])
        is_as_cut = cut.values[0].decode() == fields[self._value_place]
        is_as_cut &= cut.times[0].decode() == fields[self._time_place]
        return cut.heads[0] if is_as_cut and cut.heads[0] is not None else tuple(fields_without(fields, self._columns))

    def finish(self, rest: bytes) -> Damage | None:
        """A last line without its line feed may have been cut off, in the middle of a number."""
        if not rest:
            return None
        return Damage(self.line + 1, "truncated", "the last line has no line feed: it may have been cut off")


def fields_without(fields: Sequence[str], columns: Sequence[str]) -> list[str]:
    """The fields that name a series."""
    return [text for text, column in zip(fields, columns, strict=True) if column not in ("time", "value")]


def _read_header(header: bytes) -> list[str]:
    columns = [name.strip() for name in _read_record(header.removeprefix(b"\xef\xbb\xbf"))]
    missing = [name for name in _REQUIRED if name not in columns]
    if missing:
        raise RejectedError(
            "header", f"the header lacks {', '.join(missing)}; write a first line such as metric,labels,time,value"
        )
    if len(set(columns)) < len(columns) or "" in columns:
        raise RejectedError("header", "the header names a column twice, or has one without a name")
    return columns


def _read_record(line: bytes) -> list[str]:
    try:
        return next(csv.reader([line.decode()], strict=True), [])
    except UnicodeDecodeError:
        raise RejectedError("encoding", "the line is not UTF-8") from None
    except csv.Error as error:
        raise RejectedError("parse", f"is no record: {error}") from None


def _read_time(text: str) -> int:
    tokens = [text.encode()]
    times, bad = read_seconds(tokens)
    if not bad:
        return int(times[0])
    try:
        return read_instant(tokens[0])
    except ValueError as error:
        if "offset" in str(error):
            raise RejectedError("no_offset", f"the time {text[:_MOST_CHARACTERS_SHOWN]!r} {error}") from None
        raise RejectedError(
            "parse", f"{text[:_MOST_CHARACTERS_SHOWN]!r} is no time; write 2026-01-31T12:00:00Z, or seconds since 1970"
        ) from None


def _read_value(text: str) -> float:
    values, bad = read_values([text.encode()])
    if bad:
        raise RejectedError("parse", f"{text[:_MOST_CHARACTERS_SHOWN]!r} is no number")
    return float(values[0])


def _prefix(record: dict[str, str]) -> bytes:
    """The series as OpenMetrics names it, for its rules to decide."""
    metric = record.pop("metric")
    labels = {**_json_labels(record.pop(_LABELS, "")), **{name: text for name, text in record.items() if text}}
    if not all(map(_PLAIN_NAME.fullmatch, (metric, *labels))):
        raise RejectedError(
            "parse", f"{metric[:_MOST_CHARACTERS_SHOWN]!r} or a label of it is no name that can be used"
        )
    inner = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items())
    try:
        prefix = f"{metric}{{{inner}}} ".encode()
    except UnicodeEncodeError:  # JSON can name half a character
        raise RejectedError("encoding", "a label holds half a character") from None
    return cut_openmetrics_sample(prefix + b"0").prefix


def _json_labels(text: str) -> dict[str, str]:
    if not text:
        return {}
    try:
        labels = json.loads(text)
    except (ValueError, RecursionError):
        labels = None
    if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
        raise RejectedError("parse", f"the labels {text[:_MOST_CHARACTERS_SHOWN]!r} are no JSON object of texts")
    return labels


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
