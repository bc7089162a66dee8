"""The kind of a series by the type that the target exposes for its family."""

from __future__ import annotations

from collections.abc import Mapping

from aggregator.exposition.series import Kind

#: What a `# TYPE` line may say, in either format.
TYPES = frozenset(
    ("counter", "gauge", "histogram", "summary", "untyped", "unknown", "info", "stateset", "gaugehistogram")
)
_UNTYPED = ("untyped", "unknown")
#: Suffix of a sample's name, and the types of the family before it that make the sample count upwards.
_COUNTING_SUFFIXES = {
    "_total": ("counter",),
    "_bucket": ("histogram",),
    "_count": ("histogram", "summary"),
    "_sum": ("histogram", "summary"),
}


def kind_of(metric: str, types: Mapping[str, str]) -> Kind:
    """The kind of a sample of this name, given the types declared by family name.

    A type declared for the sample's own name decides; else that of the family its suffix belongs to. A name without a
    type, or of no known type, counts upwards only where it ends in `_total`.
    """
    declared = types.get(metric)
    if declared is not None and declared not in _UNTYPED:
        return Kind.COUNTER if declared == "counter" else Kind.GAUGE
    stem, underscore, suffix = metric.rpartition("_")
    if declared is None:
        declared = types.get(stem)
        if declared in _COUNTING_SUFFIXES.get(underscore + suffix, ()):
            return Kind.COUNTER
        if declared is not None and declared not in _UNTYPED:
            return Kind.GAUGE
    return Kind.COUNTER if suffix == "total" and underscore else Kind.GAUGE
