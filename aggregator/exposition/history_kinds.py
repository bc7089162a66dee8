"""The kinds of series in files of samples, which seldom declare them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from aggregator.exposition.kinds import kind_of
from aggregator.exposition.series import Kind

_UNTYPED = (None, "untyped", "unknown")


@dataclass(frozen=True)
class Names:
    """The names of the metrics in a file: all of them, those with a label `le` and those with a label `quantile`."""

    metrics: frozenset[str]
    with_le: frozenset[str]
    with_quantile: frozenset[str]

    @classmethod
    def of(cls, series: Iterable[tuple[str, Iterable[tuple[str, str]]]]) -> Names:
        """The names of these series: metric and labels each."""
        metrics: set[str] = set()
        having: dict[str, set[str]] = {"le": set(), "quantile": set()}
        for metric, labels in series:
            metrics.add(metric)
            for label, _ in labels:
                if label in having:
                    having[label].add(metric)
        return cls(frozenset(metrics), frozenset(having["le"]), frozenset(having["quantile"]))


def decide_kinds(names: Names, *, types: Mapping[str, str], registered: Mapping[str, Kind]) -> dict[str, Kind]:
    """The kind of each metric: as a TYPE line says, else as it is registered already, else by the look of its name.

    By its name a metric counts upwards that ends in `_total`, that is a bucket of a histogram (`_bucket` with a label
    `le`), or the `_sum` or `_count` of a histogram or of a summary metric (a label `quantile`) in the same file.
    """
    return {
        metric: kind_of(metric, types)
        if _is_declared(metric, types)
        else registered.get(metric) or _by_name(metric, names)
        for metric in names.metrics
    }


def _is_declared(metric: str, types: Mapping[str, str]) -> bool:
    """Whether a TYPE line tells of this metric, or of the family that its suffix belongs to."""
    own = types.get(metric)
    return (types.get(metric.rpartition("_")[0]) if own is None else own) not in _UNTYPED


def _by_name(metric: str, names: Names) -> Kind:
    stem, _, suffix = metric.rpartition("_")
    is_counter = bool(stem) and (
        suffix == "total"
        or (suffix == "bucket" and metric in names.with_le)
        or (suffix in ("sum", "count") and (f"{stem}_bucket" in names.with_le or stem in names.with_quantile))
    )
    return Kind.COUNTER if is_counter else Kind.GAUGE
