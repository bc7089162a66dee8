"""The parser of one target: strict at first, fast as long as only numbers change."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aggregator.config.source_model import Limits
from aggregator.exposition.exposed import NO_TIMESTAMP_MS, ExposedSeries, Exposition
from aggregator.exposition.fast import KnownBody, Reading
from aggregator.exposition.formats import Format, choose_format
from aggregator.exposition.openmetrics import ValueRules, learn_rules, validate
from aggregator.exposition.strict import StrictReader, StrictSample

__all__ = ["Exposition", "TargetParser"]


class TargetParser:
    """Parses what one target sends, and remembers its last accepted body.

    Calls may overlap in several threads: what is remembered is replaced as a whole.
    """

    def __init__(self, limits: Limits) -> None:
        self._strict = StrictReader(limits)
        self._known: tuple[KnownBody, tuple[ExposedSeries, ...]] | None = None
        self._series: tuple[ExposedSeries, ...] = ()

    def parse(self, body: bytes, content_type: str) -> Exposition:
        """Read a whole body, decompressed, in the format that its Content-Type names.

        Raises RejectedError with the reason `content_type`, `truncated`, `encoding`, `parse`, `too_many_samples`,
        `too_many_labels` or `label_too_long`, and nothing else.
        """
        body_format = choose_format(content_type)
        fast = self._read_fast(body, body_format)
        return fast if fast is not None else self._read_strict(body, body_format)

    def _read_fast(self, body: bytes, body_format: Format) -> Exposition | None:
        remembered = self._known
        if remembered is None:
            return None
        known, series = remembered
        read = known.read(body, body_format)
        if read is None:
            return None
        self._known = (read[0], series)
        return _exposition(series, read[1])

    def _read_strict(self, body: bytes, body_format: Format) -> Exposition:
        samples = self._strict.read(body, body_format)
        rules = None
        if body_format is Format.OPENMETRICS:
            rules = learn_rules(validate(body), len(samples))
        series = tuple(sample.series for sample in samples)
        if series == self._series:
            series = self._series
        self._series = series
        reading = _reading(samples)
        known = _known(body, body_format, samples, reading=reading, rules=rules)
        self._known = None if known is None else (known, series)
        return _exposition(series, reading)


def _exposition(series: tuple[ExposedSeries, ...], reading: Reading) -> Exposition:
    timestamps_ms = None if reading.timestamps_ms is None else reading.timestamps_ms.copy()
    return Exposition(series, reading.values.copy(), timestamps_ms)


def _reading(samples: Sequence[StrictSample]) -> Reading:
    values = np.array([sample.cut.value for sample in samples], dtype=np.float64)
    timestamps_ms = np.array([sample.cut.timestamp_ms for sample in samples], dtype=np.int64)
    return Reading(values, timestamps_ms if (timestamps_ms != NO_TIMESTAMP_MS).any() else None)


def _known(
    body: bytes,
    body_format: Format,
    samples: Sequence[StrictSample],
    *,
    reading: Reading,
    rules: ValueRules | None,
) -> KnownBody | None:
    """What the fast path needs to know; None where this body must be read strictly each time."""
    some_stamped = reading.timestamps_ms is not None
    all_stamped = reading.timestamps_ms is not None and bool((reading.timestamps_ms != NO_TIMESTAMP_MS).all())
    if not all(sample.cut.plain for sample in samples) or some_stamped != all_stamped:
        return None
    if body_format is Format.OPENMETRICS and (rules is None or some_stamped):
        return None
    lines = body.split(b"\n")
    prefixes: list[bytes | None] = [None] * len(lines)
    places = np.full(len(lines), -1, dtype=np.int64)
    for place, sample in enumerate(samples):
        prefixes[sample.line_number] = sample.cut.prefix
        places[sample.line_number] = place
    return KnownBody(body_format, lines, prefixes, places, reading, rules)
