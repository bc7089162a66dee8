"""From what a command printed to samples: `key value` lines, JSON, or the matches of a regular expression."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from aggregator.collectors.placing import Sample
from aggregator.config.source_model import Limits, RegexParse
from aggregator.errors import RejectedError
from aggregator.exposition.series import Kind, SeriesKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

Parse = Literal["key_value", "json", "none"] | RegexParse

_METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL_NAME = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")
_NUMBER = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|inf|infinity|nan)", re.ASCII | re.IGNORECASE)
_LINE = re.compile(r"(?P<name>[^\s{]+)\s*(?:\{(?P<labels>.*)\})?\s+(?P<value>\S+)")
_LABEL = re.compile(r'\s*(?P<name>[^\s="{},]+)\s*=\s*"(?P<value>(?:[^"\\]|\\.)*)"\s*(?:,|$)')
_ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True)
class Printed:
    """The samples that a command printed (of a series the first), and what was refused, by reason."""

    samples: tuple[Sample, ...]
    rejected: dict[str, int] = field(default_factory=dict)


class _RefusedError(ValueError):
    """One sample is refused; its argument is the reason."""


@dataclass(frozen=True)
class _Entry:
    """What is printed about one sample, not yet checked; or, with `refused`, why it is none."""

    name: object = ""
    value: object = None
    labels: Mapping[str, object] = field(default_factory=dict)
    refused: str | None = None


def parse_output(output: bytes, *, parse: Parse, limits: Limits) -> Printed:
    """Read the samples of a command's output.

    One sample that cannot be kept is counted by its reason and the others are kept. Raises RejectedError for output
    that is refused as a whole: `encoding` (not UTF-8), `parse` (not JSON), `too_many_samples`.
    """
    if parse == "none":
        return Printed(())
    try:
        text = output.decode()
    except UnicodeDecodeError as error:
        raise RejectedError(
            "encoding", f"the output is not UTF-8: byte {error.start} is {output[error.start]:#x}"
        ) from None
    return _checked(_entries(text, parse), limits)


def _entries(text: str, parse: Parse) -> Iterator[_Entry]:
    if isinstance(parse, RegexParse):
        return _from_regex(text, parse.regex)
    readers: dict[str, Callable[[str], Iterator[_Entry]]] = {"json": _from_json, "key_value": _from_lines}
    return readers[parse](text)


def _checked(entries: Iterator[_Entry], limits: Limits) -> Printed:
    samples: dict[SeriesKey, Sample] = {}
    rejected: dict[str, int] = {}
    for entry in entries:
        try:
            sample = _sample(entry, limits)
            _refuse("duplicate", sample.series in samples)
        except _RefusedError as error:
            reason = str(error)
            rejected[reason] = rejected.get(reason, 0) + 1
            continue
        samples[sample.series] = sample
        if len(samples) > limits.samples:
            raise RejectedError(
                "too_many_samples", f"the output has more than {limits.samples} samples (limits.samples)"
            )
    return Printed(tuple(samples.values()), rejected)


def _sample(entry: _Entry, limits: Limits) -> Sample:
    if entry.refused is not None:
        raise _RefusedError(entry.refused)
    metric = entry.name
    if not isinstance(metric, str) or not _METRIC.fullmatch(metric):
        raise _RefusedError("name")
    _refuse("name_too_long", len(metric) > limits.name_bytes)
    value = _number(entry.value)
    labels = tuple(sorted((name, _label_value(name, text, limits)) for name, text in entry.labels.items()))
    _refuse("too_many_labels", len(labels) > limits.labels)
    kind = Kind.COUNTER if metric.endswith("_total") else Kind.GAUGE
    return Sample(SeriesKey(metric, tuple(label for label in labels if label[1]), kind), value)


def _refuse(reason: str, condition: object) -> None:
    if condition:
        raise _RefusedError(reason)


def _number(value: object) -> float:
    _refuse("value", not isinstance(value, (str, int, float)))
    _refuse("value", isinstance(value, str) and not _NUMBER.fullmatch(value))
    try:
        number = float(value)  # type: ignore[arg-type] # checked above, for what it is and how it is written
    except OverflowError:  # an integer of more than 308 digits
        number = math.inf
    _refuse("not_finite", not math.isfinite(number))
    return number


def _label_value(name: str, value: object, limits: Limits) -> str:
    if not isinstance(value, str) or not _LABEL_NAME.fullmatch(name):
        raise _RefusedError("label")
    _refuse("label", "\x00" in value)  # which PostgreSQL cannot store
    try:
        size_bytes = len(value.encode())
    except UnicodeEncodeError:  # half of a surrogate pair, as JSON's \ud800 gives
        raise _RefusedError("label") from None
    _refuse("label_too_long", size_bytes > limits.value_bytes or len(name) > limits.name_bytes)
    return value


def _from_lines(text: str) -> Iterator[_Entry]:
    """`name value` or `name{label="x"} value`; blank lines and those that begin with # are skipped."""
    for line in text.split("\n"):
        content = line.strip()
        if content and not content.startswith("#"):
            yield _line_entry(content)


def _line_entry(line: str) -> _Entry:
    found = _LINE.fullmatch(line)
    if found is None:
        return _Entry(refused="line")
    labels = _line_labels(found["labels"] or "")
    return _Entry(refused="line") if labels is None else _Entry(found["name"], found["value"], labels)


def _line_labels(text: str) -> dict[str, str] | None:
    labels: dict[str, str] = {}
    position = 0
    while text[position:].strip():
        found = _LABEL.match(text, position)
        if found is None or found["name"] in labels:
            return None
        labels[found["name"]] = _ESCAPED.sub(_unescaped, found["value"])
        position = found.end()
    return labels


def _unescaped(match: re.Match[str]) -> str:
    return "\n" if match[1] == "n" else match[1]


def _from_json(text: str) -> Iterator[_Entry]:
    """An object of numbers (nested names are joined by `_`), or a list of `{"name", "value", "labels"}`."""
    try:
        document: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RejectedError("parse", f"the output is not JSON: {error}") from None
    if isinstance(document, dict):
        return _from_object(document)
    if isinstance(document, list):
        return (_list_entry(item) for item in document)
    raise RejectedError("parse", "the output is JSON, but neither an object nor a list")


def _from_object(document: dict[str, object]) -> Iterator[_Entry]:
    pending = list(reversed(document.items()))
    while pending:
        name, value = pending.pop()
        if isinstance(value, dict):
            pending.extend((f"{name}_{inner}", deeper) for inner, deeper in reversed(value.items()))
        else:
            yield _json_entry(name, value, {})


def _list_entry(item: object) -> _Entry:
    if not isinstance(item, dict):
        return _Entry(refused="entry")
    labels = item.get("labels", {})
    if not isinstance(labels, dict):
        return _Entry(refused="label")
    return _json_entry(item.get("name"), item.get("value"), labels)


def _json_entry(name: object, value: object, labels: Mapping[str, object]) -> _Entry:
    if not isinstance(value, (bool, int, float)):  # a string is none, even "1"
        return _Entry(refused="value")
    return _Entry(name, value, labels)


def _from_regex(text: str, regex: str) -> Iterator[_Entry]:
    """Every named group of every match; or, with groups `name` and `value`, one sample whose labels are the others."""
    for match in re.finditer(regex, text, re.MULTILINE):
        groups = {name: found.strip() for name, found in match.groupdict().items() if found is not None}
        if {"name", "value"} <= match.re.groupindex.keys():
            labels = {name: found for name, found in groups.items() if name not in {"name", "value"}}
            yield _Entry(groups.get("name"), groups.get("value"), labels)
        else:
            yield from (_Entry(name, found) for name, found in groups.items())
