"""Kinds of series that nobody declares: by what is registered already, and by their names."""

from __future__ import annotations

import pytest

from aggregator.exposition.history_kinds import Names, decide_kinds
from aggregator.exposition.series import Kind

FILE = Names.of(
    [
        ("requests_total", []),
        ("load", [("job", "node")]),
        ("latency_bucket", [("le", "1")]),
        ("latency_sum", []),
        ("latency_count", []),
        ("pause", [("quantile", "0.5")]),
        ("pause_sum", []),
        ("pause_count", []),
        ("ice_bucket", []),
        ("ice_sum", []),
        ("total", []),
        ("_total", []),
    ]
)


def test_names_tell_what_counts_upwards() -> None:
    kinds = decide_kinds(FILE, types={}, registered={})
    counters = {metric for metric, kind in kinds.items() if kind is Kind.COUNTER}
    assert counters == {
        "requests_total", "latency_bucket", "latency_sum", "latency_count", "pause_sum", "pause_count"
    }  # fmt: skip
    assert set(kinds) == FILE.metrics


@pytest.mark.parametrize(
    ("metric", "types", "registered", "kind"),
    [
        ("load", {"load": "counter"}, Kind.GAUGE, Kind.COUNTER),
        ("requests_total", {"requests": "gauge"}, Kind.COUNTER, Kind.GAUGE),
        ("requests_total", {"requests": "unknown"}, Kind.GAUGE, Kind.GAUGE),
        ("latency_sum", {"latency": "histogram"}, Kind.GAUGE, Kind.COUNTER),
        ("load", {}, Kind.COUNTER, Kind.COUNTER),
        ("requests_total", {}, Kind.GAUGE, Kind.GAUGE),
    ],
)
def test_a_type_line_comes_first_and_what_is_registered_second(
    metric: str, types: dict[str, str], registered: Kind, kind: Kind
) -> None:
    assert decide_kinds(FILE, types=types, registered={metric: registered})[metric] is kind
