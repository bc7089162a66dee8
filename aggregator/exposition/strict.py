"""The strict path: every line of a body is cut, checked and named; one fault refuses the whole scrape."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from sys import intern
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from aggregator.config.source_model import Limits
from aggregator.errors import RejectedError
from aggregator.exposition import lines as cutting
from aggregator.exposition.exposed import ExposedSeries
from aggregator.exposition.formats import Format
from aggregator.exposition.kinds import TYPES, kind_of
from aggregator.exposition.lines import NOTHING_KEPT, SampleLine, unreadable

#: A metric's name and its labels, sorted.
Named = tuple[str, tuple[tuple[str, str], ...]]
#: The last line of OpenMetrics.
END = b"# EOF"
_ESCAPED = re.compile(r"\\(.)")


class StrictSample(NamedTuple):
    """A sample's line, where it stands in the body (0 for the first line), and the series that it names."""

    line_number: int
    cut: SampleLine
    series: ExposedSeries


@dataclass
class StrictReader:
    """Reads bodies line by line. `named` remembers the last body's series by what stands before their values."""

    limits: Limits
    named: dict[bytes, Named] = field(default_factory=dict)

    def read(self, body: bytes, body_format: Format) -> list[StrictSample]:
        """All samples, in the order of their lines. Raises RejectedError."""
        check_whole(body, body_format)
        types: dict[str, str] = {}
        found: list[tuple[int, SampleLine, Named]] = []
        named: dict[bytes, Named] = {}
        is_text = body_format is Format.TEXT
        for number, line in enumerate(body.split(b"\n")[:-1] if is_text else body.removesuffix(b"\n").split(b"\n")):
            if line.lstrip(b" \t").startswith(b"#"):
                declare(line, is_text=is_text, types=types)
            elif not is_text or line.strip(b" \t"):
                cut = cutting.cut_text_sample(line) if is_text else cutting.cut_openmetrics_sample(line)
                name = named.get(cut.prefix) or self.named.get(cut.prefix) or self.name(cut.prefix, line)
                named[cut.prefix] = name
                found.append((number, cut, name))
                if len(found) > self.limits.samples:
                    raise RejectedError(
                        "too_many_samples", f"the target exposes more than the limit of {self.limits.samples} samples"
                    )
        self.named = named
        kinds = {metric: kind_of(metric, types) for metric in {name[0] for _, _, name in found}}
        return [StrictSample(number, cut, ExposedSeries(*name, kinds[name[0]])) for number, cut, name in found]

    def name(self, prefix: bytes, line: bytes) -> Named:
        """The series that the part of a line before its value names. Raises RejectedError."""
        cutting.check_quoted(line, self.limits)
        # The stock parser renames what belongs to a counter's family: it sees each series alone, without a type.
        try:
            (family,) = text_string_to_metric_families(prefix.decode() + " 0\n")
            (sample,) = family.samples
        except Exception as error:  # the stock parser fails in many ways; each means that the line is wrong
            raise unreadable(line) from error
        self._check_limits(sample.name, sample.labels)
        labels = tuple(sorted((intern(name), intern(value)) for name, value in sample.labels.items()))
        return intern(sample.name), labels

    def _check_limits(self, metric: str, labels: dict[str, str]) -> None:
        limits = self.limits
        if not metric:
            raise RejectedError("parse", f"a series has no name{NOTHING_KEPT}")
        if len(labels) > limits.labels:
            raise RejectedError(
                "too_many_labels", f"a series of {metric[:80]} has {len(labels)} labels; the limit is {limits.labels}"
            )
        longest_name = max(len(name.encode()) for name in (metric, *labels))
        longest_value = max((len(value.encode()) for value in labels.values()), default=0)
        if longest_name > limits.name_bytes or longest_value > limits.value_bytes:
            raise RejectedError(
                "label_too_long",
                f"a series of {metric[:80]} has a name of {longest_name} or a label value of {longest_value} bytes; "
                f"the limits are {limits.name_bytes} and {limits.value_bytes}",
            )


def check_whole(body: bytes, body_format: Format) -> None:
    """Refuse a body that was cut off or that no text can be made of.

    Raises RejectedError(`truncated`, `encoding`).
    """
    if body_format is Format.OPENMETRICS:
        if body.removesuffix(b"\n").rpartition(b"\n")[2] != END:
            raise RejectedError("truncated", "the answer does not end with # EOF: it was cut off on its way")
    elif body and not body.endswith(b"\n"):
        raise RejectedError("truncated", "the answer does not end with a line feed: it was cut off on its way")
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise RejectedError("encoding", f"the answer is not UTF-8: byte {error.start} cannot be read") from None
    if b"\0" in body:
        raise RejectedError("encoding", "the answer holds a NUL character, which PostgreSQL cannot store")


def declare(line: bytes, *, is_text: bool, types: dict[str, str]) -> None:
    """Read a line that begins with `#`, and enter the type that it declares into `types`. Raises RejectedError."""
    if not is_text and line == END:
        return
    comment = cutting.cut_text_comment(line) if is_text else cutting.cut_openmetrics_comment(line)
    if comment.word == "TYPE":
        declared = comment.rest.strip(b" \t").decode()
        if declared not in TYPES:
            raise unreadable(line, "declares a type that does not exist")
        types[_unquoted(comment.name)] = declared


def _unquoted(name: bytes) -> str:
    text = name.decode()
    if not text.startswith('"'):
        return text
    return _ESCAPED.sub(lambda match: "\n" if match[1] == "n" else match[1], text[1:-1])
