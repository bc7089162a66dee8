"""The parser of one target: what it reads and what it refuses."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, Histogram, Info, Summary
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from aggregator.config.source_model import Limits
from aggregator.errors import RejectedError
from aggregator.exposition.exposed import NO_TIMESTAMP_MS
from aggregator.exposition.parser import TargetParser
from aggregator.exposition.series import Kind

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def read(body: str, content_type: str = TEXT, limits: Limits | None = None) -> dict[str, float]:
    exposition = TargetParser(limits or Limits()).parse(body.encode(), content_type)
    names = [one.metric + "".join(f"|{name}={value}" for name, value in one.labels) for one in exposition.series]
    return dict(zip(names, exposition.values.tolist(), strict=True))


def kinds(body: str, content_type: str = TEXT) -> dict[str, Kind]:
    return {one.metric: one.kind for one in TargetParser(Limits()).parse(body.encode(), content_type).series}


def reason(body: str | bytes, content_type: str = TEXT, limits: Limits | None = None) -> str | None:
    try:
        TargetParser(limits or Limits()).parse(body.encode() if isinstance(body, str) else body, content_type)
    except RejectedError as error:
        return error.reason
    return None


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


def test_a_quoted_name_has_its_type() -> None:
    assert kinds('# TYPE "my.\\"hits" counter\n{"my.\\"hits"} 1\n') == {'my."hits': Kind.COUNTER}


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
    changed = re.sub(rb"^((?:temperature|b)) \S+", rb"\1 17.25", body, flags=re.MULTILINE)
    parser._strict = None  # type: ignore[assignment] # whoever asks the strict path now fails
    after = parser.parse(changed, content_type)
    assert after.series is before.series
    assert 17.25 in after.values
    assert np.count_nonzero(after.values != before.values) == 1


def test_what_was_handed_out_is_the_callers_own() -> None:
    parser = TargetParser(Limits())
    parser.parse(b"a 1\nb 2\n", TEXT).values[:] = 9
    assert parser.parse(b"a 1\nb 3\n", TEXT).values.tolist() == [1, 3]
