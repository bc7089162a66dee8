"""What OpenMetrics asks of a body as a whole, and of its values: the stock parser decides, and teaches the fast path.

Source of the rules: the OpenMetrics specification, version 1.0, in the reading of `prometheus_client`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from aggregator.errors import RejectedError
from aggregator.exposition.lines import cut_openmetrics_comment

_WHOLE_SUFFIXES = ("_bucket", "_count", "_gcount")
_UPWARD_SUFFIXES = ("_total", "_sum", "_count", "_bucket", "_gcount")
_HELP = b"# HELP "
_MOST_CHARACTERS_SHOWN = 200


@dataclass(frozen=True)
class ValueRules:
    """Which values a body of known structure may hold: for each rule the indices of the values that it is about.

    Each is int64, shape (k,); `rising` and `equal` have shape (k, 2): the second value is at least, or is, the first.
    """

    whole: npt.NDArray[np.int64]
    upward: npt.NDArray[np.int64]
    zero_or_one: npt.NDArray[np.int64]
    one: npt.NDArray[np.int64]
    quantile: npt.NDArray[np.int64]
    rising: npt.NDArray[np.int64]
    equal: npt.NDArray[np.int64]

    def allow(self, values: npt.NDArray[np.float64]) -> bool:
        """Whether the stock parser would accept these values (float64, shape (n,))."""
        whole, switches = values[self.whole], values[self.zero_or_one]
        return bool(
            np.isfinite(whole).all()
            and (whole == np.floor(whole)).all()
            and (values[self.upward] >= 0).all()
            and ((switches == 0) | (switches == 1)).all()
            and (values[self.one] == 1).all()
            and not (values[self.quantile] < 0).any()
            and (values[self.rising[:, 1]] >= values[self.rising[:, 0]]).all()
            and (values[self.equal[:, 1]] == values[self.equal[:, 0]]).all()
        )


def validate(body: bytes) -> list[Metric]:
    """The families of a body whose lines were cut already. Raises RejectedError(`parse`) for any rule it breaks."""
    try:
        text = _without_documentation(body)
        return list(text_string_to_metric_families(text))  # type: ignore[no-untyped-call] # it carries no annotations
    except Exception as error:  # it fails in many ways; each means that the body breaks a rule
        said = (str(error) or type(error).__name__)[:_MOST_CHARACTERS_SHOWN]
        raise RejectedError(
            "parse", f"the answer breaks a rule of OpenMetrics: {said}; nothing of it is kept"
        ) from error


def _without_documentation(body: bytes) -> str:
    """The body with one letter for each help text: nobody keeps it, and in long ones the stock parser is slow."""
    lines = body.split(b"\n")
    for index, line in enumerate(lines):
        if line.startswith(_HELP):
            comment = cut_openmetrics_comment(line)
            lines[index] = _HELP + comment.name + (b" x" if comment.rest else b" ")
    return b"\n".join(lines).decode()


def learn_rules(families: Sequence[Metric], sample_count: int) -> ValueRules | None:
    """The rules for other values in the same lines; None where values cannot be judged without the whole body."""
    if sum(len(family.samples) for family in families) != sample_count:
        return None  # the stock parser leaves out repeated samples: places in the body are not known
    if any(family.type == "gaugehistogram" for family in families):
        return None  # what its sum may be depends on its buckets
    found: defaultdict[str, list[int]] = defaultdict(list)
    rising: list[tuple[int, int]] = []
    equal: list[tuple[int, int]] = []
    start = 0
    for family in families:
        for index, sample in enumerate(family.samples, start):
            for rule in _rules(family, sample):
                found[rule].append(index)
        if family.type == "histogram":
            for buckets, count in _histograms(family, start):
                rising += pairwise(buckets)
                equal += [(buckets[-1], count)] if count is not None else []
        start += len(family.samples)
    single = {rule: _indices(found[rule]) for rule in ("whole", "upward", "zero_or_one", "one", "quantile")}
    return ValueRules(**single, rising=_indices(rising).reshape(-1, 2), equal=_indices(equal).reshape(-1, 2))


def _rules(family: Metric, sample: Sample) -> Iterator[str]:
    suffix = sample.name[len(family.name) :]
    if suffix in _WHOLE_SUFFIXES:
        yield "whole"
    if suffix in _UPWARD_SUFFIXES:
        yield "upward"
    if family.type == "stateset":
        yield "zero_or_one"
    if family.type == "info":
        yield "one"
    if family.type == "summary" and not suffix:
        yield "quantile"


def _histograms(family: Metric, start: int) -> Iterator[tuple[list[int], int | None]]:
    """The places of each histogram's buckets, in order, and of its count: consecutive samples of one label set."""
    buckets: list[int] = []
    count: int | None = None
    group: dict[str, str] | None = None
    for index, sample in enumerate(family.samples, start):
        suffix = sample.name[len(family.name) :]
        labels = {name: value for name, value in sample.labels.items() if suffix != "_bucket" or name != "le"}
        if labels != group and buckets:
            yield buckets, count
            buckets, count = [], None
        group = labels
        if suffix == "_bucket":
            buckets.append(index)
        elif suffix == "_count":
            count = index
    if buckets:
        yield buckets, count


def _indices(places: Sequence[int] | Sequence[tuple[int, int]]) -> npt.NDArray[np.int64]:
    return np.array(places, dtype=np.int64)
