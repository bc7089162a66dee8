"""What holds for any body: the fast path changes no verdict and no bit, and nothing but a refusal is raised."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from aggregator.config.source_model import Limits
from aggregator.errors import RejectedError
from aggregator.exposition.exposed import ExposedSeries
from aggregator.exposition.parser import TargetParser

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

PLAIN = b"""# HELP requests_total Requests.
# TYPE requests_total counter
requests_total{code="200"} 3
requests_total{code="500"} 0
# TYPE latency histogram
latency_bucket{le="1"} 1
latency_bucket{le="+Inf"} 2
latency_sum 2.5
latency_count 2
# TYPE temperature gauge
temperature -2.5
limit +Inf
nothing NaN
"""
STAMPED = b"""# TYPE a_total untyped
a_total{instance="x",job="j"} 1 1700000000000
a_total{instance="y",job="j"} 2 1700000000123
# TYPE b untyped
b 0.25 1700000000000
"""
RULED = b"""# HELP requests Requests.
# TYPE requests counter
requests_total{code="200"} 3
requests_created{code="200"} 17
# TYPE latency histogram
latency_bucket{path="/",le="1"} 1
latency_bucket{path="/",le="2"} 1
latency_bucket{path="/",le="+Inf"} 2
latency_sum{path="/"} 2.5
latency_count{path="/"} 2
latency_bucket{path="/x",le="1"} 0
latency_bucket{path="/x",le="+Inf"} 1
# TYPE rpc summary
rpc{quantile="0.5"} 3
rpc{quantile="0.9"} NaN
rpc_sum 4
rpc_count 2
# TYPE state stateset
state{state="up"} 0
state{state="down"} 1
# TYPE build info
build_info{version="1"} 1
# TYPE temperature gauge
temperature -2.5
# EOF
"""
GAUGE_HISTOGRAM = b"""# TYPE g gaugehistogram
g_bucket{le="1"} 1
g_bucket{le="+Inf"} 2
g_gcount 2
g_gsum 5
# EOF
"""
BODIES = ((PLAIN, TEXT), (STAMPED, TEXT), (RULED, OPENMETRICS), (GAUGE_HISTOGRAM, OPENMETRICS))


class Verdict(NamedTuple):
    """What a parser makes of a body, comparable bit by bit."""

    series: tuple[ExposedSeries, ...] | None
    values: bytes
    timestamps_ms: bytes | None
    reason: str | None


def verdict(parser: TargetParser, body: bytes, content_type: str) -> Verdict:
    try:
        exposition = parser.parse(body, content_type)
    except RejectedError as error:
        return Verdict(None, b"", None, error.reason)
    stamps = exposition.timestamps_ms
    return Verdict(exposition.series, exposition.values.tobytes(), None if stamps is None else stamps.tobytes(), None)


TOKENS = (
    "0", "1", "2", "-1", "0.5", "NaN", "nan", "+Inf", "-Inf", "Infinity", "1e308", "1e400", "1_0", " 1", "1 ", "+nan",
    "0x1", "-0", "007", "1.", "", "\t3", "1 1700000000001", "1 # {} 1", "9" * 30, "5\x0b", "5\r", "1e", "--1",
)  # fmt: skip


@pytest.mark.parametrize(("body", "content_type"), BODIES)
def test_any_value_in_any_place_is_judged_alike_by_the_fast_path_and_the_strict_one(
    body: bytes, content_type: str
) -> None:
    lines = body.split(b"\n")
    warm = TargetParser(Limits())
    for place, old in enumerate(lines):
        for token in TOKENS:
            new = old.rpartition(b" ")[0] + b" " + token.encode()
            mutated = b"\n".join([*lines[:place], new, *lines[place + 1 :]])
            warm.parse(body, content_type)
            assert verdict(warm, mutated, content_type) == verdict(TargetParser(Limits()), mutated, content_type)


@st.composite
def mutations(draw: st.DrawFn, body: bytes) -> bytes:
    """A body, changed in a few places: mostly in its values, now and then anywhere."""
    lines = body.split(b"\n")
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(lines) - 1))
        other = draw(st.integers(0, len(lines) - 1))
        change = draw(st.sampled_from(["value"] * 6 + ["stamp", "swap", "delete", "repeat", "type", "byte", "cut"]))
        if change == "value":
            prefix, space, _ = lines[place].rpartition(b" ")
            lines[place] = prefix + space + draw(st.sampled_from(TOKENS)).encode()
        elif change == "stamp":
            lines[place] += draw(st.sampled_from([b" 1700000000000", b" 17", b" 1_7", b" -5", b"  5", b" 1e3"]))
        elif change == "swap":
            lines[place], lines[other] = lines[other], lines[place]
        elif change == "delete" and len(lines) > 1:
            del lines[place]
        elif change == "repeat":
            lines.insert(other, lines[place])
        elif change == "type":
            word = draw(st.sampled_from([b"counter", b"gauge", b"info", b"stateset", b"histogram", b"summary", b"x"]))
            lines[place] = re.sub(rb"(# TYPE \S+) \S+", rb"\1 " + word, lines[place])
        elif change == "byte" and lines[place]:
            at = draw(st.integers(0, len(lines[place]) - 1))
            lines[place] = lines[place][:at] + bytes([draw(st.integers(0, 255))]) + lines[place][at + 1 :]
        elif change == "cut":
            lines[place:] = [lines[place][: draw(st.integers(0, len(lines[place])))]]
    return b"\n".join(lines)


@settings(max_examples=200)
@given(data=st.data(), which=st.sampled_from(BODIES))
def test_a_warm_parser_and_a_fresh_one_never_differ(data: st.DataObject, which: tuple[bytes, str]) -> None:
    body, content_type = which
    warm = TargetParser(Limits())
    warm.parse(body, content_type)
    for _ in range(3):
        mutated = data.draw(mutations(body))
        assert verdict(warm, mutated, content_type) == verdict(TargetParser(Limits()), mutated, content_type)


@settings(max_examples=200)
@given(body=st.binary(max_size=60) | st.text(alphabet='ab{}",=\\# 1eE.+-\nN_T\tEOF', max_size=60).map(str.encode))
def test_no_body_raises_anything_but_a_refusal(body: bytes) -> None:
    verdict(TargetParser(Limits()), body + b"\n", TEXT)
    verdict(TargetParser(Limits()), body + b"\n# EOF\n", OPENMETRICS)


LABEL_VALUES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
LABELS = st.dictionaries(st.from_regex(r"[a-z][a-z0-9_]{0,5}", fullmatch=True), LABEL_VALUES, max_size=4)
NUMBERS = st.floats() | st.integers(-(2**63), 2**63).map(float)


def line(metric: str, labels: dict[str, str], value: float) -> str:
    pairs = []
    for name, text in labels.items():
        escaped = text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
        pairs.append(f'{name}="{escaped}"')
    return f"{metric}{{{','.join(pairs)}}} {value!r}"


@settings(max_examples=150)
@given(samples=st.lists(st.tuples(st.from_regex(r"m[a-z0-9_:]{0,9}", fullmatch=True), LABELS, NUMBERS), max_size=6))
def test_what_is_written_is_read_back_and_the_stock_parser_agrees(
    samples: list[tuple[str, dict[str, str], float]],
) -> None:
    body = "".join(line(*sample) + "\n" for sample in samples)
    exposition = TargetParser(Limits()).parse(body.encode(), TEXT)
    stock = [sample for family in text_string_to_metric_families(body) for sample in family.samples]
    expected = [(metric, tuple(sorted(labels.items()))) for metric, labels, _ in samples]
    assert [(one.metric, one.labels) for one in exposition.series] == expected
    assert [(sample.name, tuple(sorted(sample.labels.items()))) for sample in stock] == expected
    np.testing.assert_array_equal(exposition.values, [value for *_, value in samples])
    np.testing.assert_array_equal(exposition.values, [float(sample.value) for sample in stock])
