"""Whose the series of an imported file are: the source and the target of each."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from aggregator.errors import RejectedError
from aggregator.exposition.strict import Named
from aggregator.stages.collect.spool_parts import MOST_TARGETS

#: The source of samples that have no label `job`, where none was named.
DEFAULT_SOURCE = "import"


class ImportedTarget(NamedTuple):
    """A target as an imported file knows it."""

    source: str
    job: str
    instance: str

    @property
    def labels(self) -> tuple[tuple[str, str], ...]:
        """Its labels, sorted."""
        return (("instance", self.instance), ("job", self.job))


@dataclass
class TargetNumbers:
    """Numbers the targets of a file in the order of their first series; `source` overrules the label `job`."""

    source: str | None
    numbers: dict[ImportedTarget, int] = field(default_factory=dict)
    _of_series: array[int] = field(default_factory=lambda: array("q"))

    def __len__(self) -> int:
        """How many series there are."""
        return len(self._of_series)

    def add(self, series: Iterable[Named]) -> None:
        """Learn the next series of the file. Raises RejectedError(`too_many_targets`)."""
        for _, labels in series:
            target = self.target(dict(labels))
            number = self.numbers.setdefault(target, len(self.numbers))
            if number >= MOST_TARGETS:
                raise RejectedError("too_many_targets", f"the file has more than {MOST_TARGETS} targets; split it")
            self._of_series.append(number)

    def target(self, labels: dict[str, str]) -> ImportedTarget:
        """The target of a series with these labels."""
        job = labels.get("job") or self.source or DEFAULT_SOURCE
        return ImportedTarget(self.source or job, job, labels.get("instance") or job)

    def of_series(self) -> npt.NDArray[np.int64]:
        """The target's number of each series of the file (int64)."""
        return np.array(self._of_series, dtype=np.int64)
