"""One line of an exposition, cut into its parts; what a line may not look like is refused here.

The stock parsers let more pass than Prometheus does: junk between value and timestamp, a name with a space in it, `nan`
alone on a line, in OpenMetrics any character between `}` and the value. So a line is cut here, by grammars that are no
wider than Prometheus' own, and only the part that names the series is left to the stock parser.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from aggregator.config.source_model import Limits
from aggregator.errors import RejectedError
from aggregator.exposition.exposed import NO_TIMESTAMP_MS

_NAME = rb"[a-zA-Z_:][a-zA-Z0-9_:]*+"
_QUOTED = rb'"(?:[^"\\\n]|\\.)*+"'
_BRACES = rb'\{(?:[^"{}\\\n]|' + _QUOTED + rb")*+\}"
_NUMBER = rb"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_VALUE = rb"(?:" + _NUMBER + rb"|[+-]?(?i:inf(?:inity)?)|(?i:nan))"

VALUE = re.compile(_VALUE)
NUMBER = re.compile(_NUMBER)
INFINITY = re.compile(rb"[+-]?(?i:inf(?:inity)?)")

_TEXT_SAMPLE = re.compile(
    rb"(?P<lead>[ \t]*+)(?P<series>" + _NAME + rb"(?:[ \t]*+" + _BRACES + rb")?|" + _BRACES + rb")"
    rb"(?P<gap>[ \t]*+)(?P<value>" + _VALUE + rb")(?:[ \t]++(?P<timestamp>-?[0-9]++))?(?P<trail>[ \t]*+)"
)
_OPENMETRICS_SAMPLE = re.compile(
    rb"(?P<lead>)(?P<series>" + _NAME + rb"(?:" + _BRACES + rb")?|" + _BRACES + rb")"
    rb"(?P<gap> )(?P<value>" + _VALUE + rb")(?: (?P<timestamp>" + _NUMBER + rb"))?"
    rb"(?P<trail>(?: # " + _BRACES + rb" " + _VALUE + rb"(?: " + _NUMBER + rb")?)?)"
)
_TEXT_COMMENT = re.compile(
    rb"[ \t]*+#(?:[ \t]++(?P<word>HELP|TYPE)[ \t]++(?P<name>"
    + _NAME
    + rb"|"
    + _QUOTED
    + rb")(?:[ \t]++(?P<rest>[^\n]*))?"
    rb"|(?![ \t]++(?:TYPE(?:[ \t]|$)|HELP[ \t]++[^ \t]))[^\n]*)"
)
_OPENMETRICS_COMMENT = re.compile(
    rb"# (?P<word>HELP|TYPE|UNIT) (?P<name>" + _NAME + rb"|" + _QUOTED + rb") (?P<rest>[^\n]*)"
)
_QUOTED_PART = re.compile(_QUOTED)
#: A line cut off somewhere inside is no longer than this in an error's text.
_MOST_BYTES_SHOWN = 80
_LATEST_MS = 2**62
#: How the refusal of a scrape ends; whoever reads lines for another purpose leaves it out.
NOTHING_KEPT = "; nothing of this scrape is kept"
_MOST_STAMP_BYTES = 20


class SampleLine(NamedTuple):
    """A sample's line: what stands before the value (the series and its gap), the value, and its instant."""

    prefix: bytes
    value: float
    timestamp_ms: int
    #: Whether the line is nothing but series, one space, value and perhaps one space and a timestamp.
    plain: bool


class Comment(NamedTuple):
    """A line that tells of a family; `word` is None for one that tells nothing."""

    word: str | None
    name: bytes
    rest: bytes


def unreadable(line: bytes, why: str = "is not what the format allows") -> RejectedError:
    """The refusal of a whole scrape for one line, shown cut short."""
    shown = line[:_MOST_BYTES_SHOWN].decode("utf-8", "replace")
    return RejectedError("parse", f"the line {shown!r} {why}{NOTHING_KEPT}")


def cut_text_sample(line: bytes) -> SampleLine:
    """Cut a line of the text format. Raises RejectedError(`parse`)."""
    match = _TEXT_SAMPLE.fullmatch(line)
    if match is None or not (match["gap"] or match["series"].endswith(b"}")):
        raise unreadable(line)
    stamp = match["timestamp"]
    timestamp_ms = NO_TIMESTAMP_MS if stamp is None else _milliseconds(line, stamp)
    return _sample(line, match, timestamp_ms)


def cut_openmetrics_sample(line: bytes) -> SampleLine:
    """Cut a line of OpenMetrics, whose timestamps are seconds. Raises RejectedError(`parse`)."""
    match = _OPENMETRICS_SAMPLE.fullmatch(line)
    if match is None:
        raise unreadable(line)
    stamp = match["timestamp"]
    timestamp_ms = NO_TIMESTAMP_MS if stamp is None else _seconds(line, stamp)
    return _sample(line, match, timestamp_ms)


def cut_text_comment(line: bytes) -> Comment:
    """Cut a line that begins with `#`. Raises RejectedError(`parse`)."""
    return _comment(line, _TEXT_COMMENT.fullmatch(line))


def cut_openmetrics_comment(line: bytes) -> Comment:
    """Cut a line that begins with `#`; OpenMetrics has no free comments. Raises RejectedError(`parse`)."""
    return _comment(line, _OPENMETRICS_COMMENT.fullmatch(line))


def check_quoted(line: bytes, limits: Limits) -> None:
    """Refuse what would take the stock parser a time that grows with the square of the line's length.

    Raises RejectedError(`label_too_long`, `too_many_labels`).
    """
    if len(line) <= limits.value_bytes:
        return
    lengths = [len(part) for part in _QUOTED_PART.findall(line)]
    # An escaped character is two bytes for one; a label name may be quoted, and so may be the metric's.
    if max(lengths, default=0) > 2 * max(limits.value_bytes, limits.name_bytes) + 2:
        raise RejectedError("label_too_long", f"a label is longer than the limit of {limits.value_bytes} bytes")
    if len(lengths) > 4 * limits.labels + 4:
        raise RejectedError("too_many_labels", f"a series has more labels than the limit of {limits.labels}")


def _sample(line: bytes, match: re.Match[bytes], timestamp_ms: int) -> SampleLine:
    token = match["value"]
    value = float(token)
    if np.isinf(value) and INFINITY.fullmatch(token) is None:
        raise unreadable(line, "has a value beyond the range of a float64")
    plain = match["gap"] == b" " and not match["lead"] and not match["trail"]
    stamp = match["timestamp"]
    if plain and stamp is not None:
        plain = match.end("value") + 1 == match.start("timestamp")
    return SampleLine(line[match.start("series") : match.start("value")], value, timestamp_ms, plain)


def _milliseconds(line: bytes, stamp: bytes) -> int:
    # Python's int() refuses thousands of digits with an error of its own.
    if len(stamp) > _MOST_STAMP_BYTES or abs(int(stamp)) > _LATEST_MS:
        raise unreadable(line, "has a timestamp out of range")
    return int(stamp)


def _seconds(line: bytes, stamp: bytes) -> int:
    milliseconds = float(stamp) * 1_000
    if not abs(milliseconds) <= _LATEST_MS:
        raise unreadable(line, "has a timestamp out of range")
    return round(milliseconds)


def _comment(line: bytes, match: re.Match[bytes] | None) -> Comment:
    if match is None:
        raise unreadable(line)
    if match["word"] is None:
        return Comment(None, b"", b"")
    return Comment(match["word"].decode(), match["name"], match["rest"] or b"")
