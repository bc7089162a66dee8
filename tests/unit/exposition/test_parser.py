"""The parser of one target: what it reads, what it refuses, and that its fast path changes neither."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, Histogram, Info, Summary
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from aggregator.config.model import Limits
from aggregator.errors import RejectedError
from aggregator.exposition.exposed import NO_TIMESTAMP_MS, ExposedSeries
from aggregator.exposition.parser import TargetParser
from aggregator.exposition.series import Kind

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


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


def read(body: str, content_type: str = TEXT, limits: Limits | None = None) -> dict[str, float]:
    exposition = TargetParser(limits or Limits()).parse(body.encode(), content_type)
    names = [one.metric + "".join(f"|{name}={value}" for name, value in one.labels) for one in exposition.series]
    return dict(zip(names, exposition.values.tolist(), strict=True))


def kinds(body: str, content_type: str = TEXT) -> dict[str, Kind]:
    return {one.metric: one.kind for one in TargetParser(Limits()).parse(body.encode(), content_type).series}


def reason(body: str | bytes, content_type: str = TEXT, limits: Limits | None = None) -> str | None:
    data = body.encode() if isinstance(body, str) else body
    return verdict(TargetParser(limits or Limits()), data, content_type).reason


def registry() -> CollectorRegistry:
    every = CollectorRegistry()
    Counter("requests", "Requests.", ["code"], registry=every).labels("200").inc(3)
    Gauge("temperature", 'Of a "room", in \\ degrees.\nMany.', registry=every).set(-2.5)
    histogram = Histogram("latency_seconds", "Latency.", ["path"], registry=every, buckets=(0.1, 1))
    histogram.labels('/a"b\\c\nd{}=, ä').observe(0.5)
    histogram.labels("/").observe(3)
    Summary("size_bytes", "Sizes.", registry=every).observe(7)
    Info("build", "Build.", registry=every).info({"version": "1.2"})
    Enum("state", "State.", registry=every, states=["up", "down"]).state("down")
    return every


STAMPED = """# TYPE a_total untyped
a_total{instance="x",job="j"} 1 1700000000000
a_total{instance="y",job="j"} 2 1700000000123
# TYPE b untyped
b 0.25 1700000000000
"""
SUMMARY = """# TYPE rpc summary
rpc{quantile="0.5"} 3
rpc{quantile="0.9"} NaN
rpc_sum 4
rpc_count 2
# TYPE g gaugehistogram
g_bucket{le="1"} 1
g_bucket{le="+Inf"} 2
g_gcount 2
g_gsum 5
# EOF
"""
BODIES = (
    (generate_latest(registry()), TEXT),
    (generate_openmetrics(registry()), OPENMETRICS),
    (STAMPED.encode(), TEXT),
    (SUMMARY.encode(), OPENMETRICS),
)


def test_every_value_of_a_client_is_read_as_it_was_written() -> None:
    values = read(generate_latest(registry()).decode())
    assert values["requests_total|code=200"] == 3
    assert values["temperature"] == -2.5
    assert values['latency_seconds_bucket|le=+Inf|path=/a"b\\c\nd{}=, ä'] == 1
    assert values["build_info|version=1.2"] == 1


def test_kinds_follow_the_exposed_type_in_the_text_format() -> None:
    found = kinds(generate_latest(registry()).decode())
    counters = {name for name, kind in found.items() if kind is Kind.COUNTER}
    assert counters == {
        "requests_total",
        *(f"latency_seconds_{part}" for part in ("bucket", "count", "sum")),
        "size_bytes_count",
        "size_bytes_sum",
    }
    assert {"requests_created", "temperature", "build_info", "state"} < set(found)


def test_kinds_are_the_same_in_openmetrics() -> None:
    text = kinds(generate_latest(registry()).decode())
    assert kinds(generate_openmetrics(registry()).decode(), OPENMETRICS) == text


def test_without_a_type_only_the_suffix_total_makes_a_counter() -> None:
    found = kinds(
        "a_total 1\nb_count 1\nc_bucket 1\n# TYPE d_total gauge\nd_total 1\n# TYPE e_total untyped\ne_total 1\n"
    )
    assert [name for name, kind in found.items() if kind is Kind.COUNTER] == ["a_total", "e_total"]


def test_a_counter_keeps_the_name_that_the_text_format_gives_it() -> None:
    assert kinds("# TYPE hits counter\nhits 4\n") == {"hits": Kind.COUNTER}


def test_the_quantiles_of_a_summary_are_gauges() -> None:
    found = kinds(SUMMARY, OPENMETRICS)
    assert found["rpc"] is Kind.GAUGE
    assert found["rpc_sum"] is Kind.COUNTER
    assert found["g_bucket"] is Kind.GAUGE


def test_names_in_quotes_may_be_any_text() -> None:
    assert read('{"my.metric","a b"="ü"} 1\n') == {"my.metric|a b=ü": 1}


def test_special_values_are_read() -> None:
    values = read("a NaN\nb +Inf\nc -inf\nd 1e308\ne -0\nf .5\ng 5.\nh 1E-3\n")
    assert math.isnan(values.pop("a"))
    assert list(values.values()) == [math.inf, -math.inf, 1e308, -0.0, 0.5, 5, 0.001]
    assert math.copysign(1, values["e"]) == -1


def test_timestamps_are_milliseconds_in_both_formats() -> None:
    text = TargetParser(Limits()).parse(b"a 1 1700000000123\nb 2\n", TEXT)
    openmetrics = TargetParser(Limits()).parse(b"a 1 1700000000.123\nb 2\n# EOF\n", OPENMETRICS)
    for exposition in (text, openmetrics):
        assert exposition.timestamps_ms is not None
        assert exposition.timestamps_ms.tolist() == [1_700_000_000_123, NO_TIMESTAMP_MS]


def test_an_empty_body_has_no_samples() -> None:
    assert read("") == {}
    assert read("# EOF\n", OPENMETRICS) == {}


def test_an_exemplar_is_read_over() -> None:
    assert read('# TYPE a counter\na_total 1 # {trace_id="x"} 0.5 1700000000.1\n# EOF\n', OPENMETRICS) == {"a_total": 1}


def test_a_repeated_series_stands_there_twice_and_rejects_nothing() -> None:
    assert len(TargetParser(Limits()).parse(b"a 1\na 2\n", TEXT).series) == 2
    assert TargetParser(Limits()).parse(b"a 1\na 2\n# EOF\n", OPENMETRICS).values.tolist() == [1, 2]


@pytest.mark.parametrize(
    "line",
    [
        "nan", "inf", "a", "a ", "a 1_0", "a 0x10", "a 1e400", "a +NaN", "a 1 2 3", "a 1 2.5", "a 1 junk 2", "a 1 nan",
        "a 1 99999999999999999999", 'a b{c="d"} 1', 'a{b="c"} 1 # {} 2', "a{b=c} 1", 'a{b="c",b="d"} 1',
        'a{b="c" 1', 'a{1b="c"} 1', 'a{__b="c"} 1', "a \u0661", "1a 1", "a 1\r", "<html>", "{} 1", 'a{\\"b="}"} 1',
        "# TYPE a", "# TYPE a nonsense", "# TYPE 1 gauge", "\ufeffa 1", "a\u00a01", "a+1", "a \x00", '{""} 1',
    ],
)  # fmt: skip
def test_a_line_that_prometheus_refuses_refuses_the_scrape(line: str) -> None:
    assert reason(f"up 1\n{line}\n") in ("parse", "encoding")


@pytest.mark.parametrize(
    "line",
    ['a{b="c"}x1', 'a{b="c"}12', "a  1", "a 1 ", "", "# free comment", "a 1 # {} 1", "a 1 1e400", "a{b='c'} 1"],
)
def test_openmetrics_is_stricter_still(line: str) -> None:
    assert reason(f"up 1\n{line}\n# EOF\n", OPENMETRICS) == "parse"


def test_free_comments_and_blank_lines_are_read_over_in_text() -> None:
    assert read('# hello\n#\n\n  \t\n#TYPE x y\n# HELP\n\t a\t{ b = "c" , }\t1 \n') == {"a|b=c": 1}


def test_the_format_follows_the_content_type_and_nothing_else() -> None:
    openmetrics = "a 1\n# EOF\n"
    assert reason(openmetrics, "application/openmetrics-text") is None
    assert reason("a 1\n", "application/openmetrics-text") == "truncated"
    for content_type in ("", "text/plain", "text/plain; version=1.0.0; escaping=values", " TEXT/Plain;;"):
        assert reason("a 1\n", content_type) is None
    for content_type in ("text/html", "application/json", "application/vnd.google.protobuf", "text"):
        assert reason("a 1\n", content_type) == "content_type"


def test_a_body_cut_off_anywhere_is_never_read_as_a_shorter_number() -> None:
    assert reason("a 1234") == "truncated"
    assert reason("a 12\nb 3") == "truncated"
    assert reason("a 1\n# EO", OPENMETRICS) == "truncated"
    assert reason("a 1\n# EOF", OPENMETRICS) is None


def test_what_cannot_be_stored_is_refused() -> None:
    assert reason(b'a{b="\xff"} 1\n') == "encoding"
    assert reason(b'a{b="\x00"} 1\n') == "encoding"


def test_limits_refuse_the_whole_scrape() -> None:
    assert reason("a 1\nb 1\n", limits=Limits(samples=1)) == "too_many_samples"
    assert reason('a{b="1",c="2"} 1\n', limits=Limits(labels=1)) == "too_many_labels"
    assert reason("abc 1\n", limits=Limits(name_bytes=2)) == "label_too_long"
    assert reason('a{bcd="1"} 1\n', limits=Limits(name_bytes=2)) == "label_too_long"
    assert reason('a{b="üü"} 1\n', limits=Limits(value_bytes=3)) == "label_too_long"
    assert reason('a{b="üü"} 1\n', limits=Limits(value_bytes=4)) is None


@pytest.mark.parametrize(
    "body",
    [
        'a{b="' + '\\"' * 1_000_000 + '"} 1\n',
        "a{" + ",".join(f'b{number}="1"' for number in range(200_000)) + "} 1\n",
        "# HELP a " + " " * 1_000_000 + "x\na 1\n",
        "a" + " " * 1_000_000 + "x\n",
    ],
)
@pytest.mark.parametrize("content_type", [TEXT, OPENMETRICS])
def test_long_lines_take_no_more_than_their_share_of_time(body: str, content_type: str) -> None:
    """Each would take the stock parser minutes; that this test ends is what it asserts."""
    reason(body + ("# EOF\n" if content_type == OPENMETRICS else ""), content_type)


@pytest.mark.parametrize(("body", "content_type"), BODIES)
def test_the_same_structure_gives_the_same_tuple(body: bytes, content_type: str) -> None:
    parser = TargetParser(Limits())
    first = parser.parse(body, content_type)
    assert parser.parse(body, content_type).series is first.series


@pytest.mark.parametrize(("body", "content_type"), BODIES[:3])
def test_new_numbers_are_read_by_the_fast_path(body: bytes, content_type: str) -> None:
    parser = TargetParser(Limits())
    before = parser.parse(body, content_type)
    changed = re.sub(rb"_created(\S*) .*", rb"_created\1 17.5", body).replace(b" 1700000000000", b" 1700000000999")
    parser._strict = None  # type: ignore[assignment] # whoever asks the strict path now fails
    after = parser.parse(changed, content_type)
    assert after.series is before.series
    assert changed == body or after.values.tobytes() != before.values.tobytes() or after.timestamps_ms is not None


def test_what_was_handed_out_is_the_callers_own() -> None:
    parser = TargetParser(Limits())
    parser.parse(b"a 1\nb 2\n", TEXT).values[:] = 9
    assert parser.parse(b"a 1\nb 3\n", TEXT).values.tolist() == [1, 3]


TOKENS = st.sampled_from(
    ["0", "1", "2", "-1", "0.5", "NaN", "nan", "+Inf", "-Inf", "Infinity", "1e308", "1e400", "1_0", " 1", "1 ", "+nan",
     "0x1", "-0", "007", "1.", "", "\t3", "1 1700000000001", "1 # {} 1", "9" * 30, "5\x0b", "5\r", "1e", "--1"]
)  # fmt: skip


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
            lines[place] = prefix + space + draw(TOKENS).encode()
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


@settings(deadline=None, max_examples=400)
@given(data=st.data(), which=st.sampled_from(BODIES))
def test_a_warm_parser_and_a_fresh_one_never_differ(data: st.DataObject, which: tuple[bytes, str]) -> None:
    body, content_type = which
    warm = TargetParser(Limits())
    warm.parse(body, content_type)
    for _ in range(3):
        mutated = data.draw(mutations(body))
        assert verdict(warm, mutated, content_type) == verdict(TargetParser(Limits()), mutated, content_type)


@settings(deadline=None, max_examples=200)
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


@settings(deadline=None, max_examples=150)
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
