"""The identity of a series on its target: metric name, label set, kind."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class Kind(IntEnum):
    """How the samples of a series behave, which decides the statistics that its rollups hold."""

    GAUGE = 1
    COUNTER = 2


class SeriesKey(NamedTuple):
    """A series as it is registered. `labels` are sorted by name, and none has an empty value."""

    metric: str
    labels: tuple[tuple[str, str], ...]
    kind: Kind
