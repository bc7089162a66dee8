"""What a command printed, read as lines, JSON or matches: good samples are kept, bad ones counted."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.collectors.command_output import Parse, Printed, parse_output
from aggregator.config.source_model import Limits, RegexParse
from aggregator.errors import RejectedError
from aggregator.exposition.series import Kind

LIMITS = Limits()
ALL_PARSES: list[Parse] = [
    "key_value",
    "json",
    "none",
    RegexParse(regex=r"^(?P<name>\w+)[ =](?P<value>\S+)(?: (?P<unit>\w*))?"),
    RegexParse(regex=r"(?P<blocks>\d+)|(?P<words>\w+)"),
]


def read(output: str, parse: Parse, *, limits: Limits = LIMITS) -> Printed:
    return parse_output(output.encode(), parse=parse, limits=limits)


def values(printed: Printed) -> dict[str, float]:
    return {
        series.metric + "".join(f"{{{name}={value}}}" for name, value in series.labels): value
        for series, value in printed.samples
    }


def test_key_value_lines_with_and_without_labels_are_read() -> None:
    printed = read(
        '# a comment\n\n  load 1.5\njobs_total{queue="a b", state="x\\"y\\\\z"} 3\r\nsmall 1e-3\n', "key_value"
    )
    assert values(printed) == {"load": 1.5, 'jobs_total{queue=a b}{state=x"y\\z}': 3.0, "small": 0.001}
    assert printed.rejected == {}


def test_a_name_that_ends_in_total_is_a_counter_and_others_are_gauges() -> None:
    kinds = {sample.series.metric: sample.series.kind for sample in read("a_total 1\na_count 1\n", "key_value").samples}
    assert kinds == {"a_total": Kind.COUNTER, "a_count": Kind.GAUGE}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("only_a_name", "line"),
        ("a 1 2", "line"),
        ('a{x="1" 1', "line"),
        ('a{x="1",x="2"} 1', "line"),
        ('a{"x"="1"} 1', "line"),
        ("9a 1", "name"),
        ("a-b 1", "name"),
        ("größe 1", "name"),
        ("n" * 129 + " 1", "name_too_long"),
        ("a one", "value"),
        ("a 1_000", "value"),
        ("a 0x10", "value"),
        ("a \u0661", "value"),
        ("a NaN", "not_finite"),
        ("a +Inf", "not_finite"),
        ("a 1e999", "not_finite"),
        ('a{1x="1"} 1', "label"),
        ('a{__name__="b"} 1', "label"),
        ('a{x="\x00"} 1', "label"),
        ('a{x="' + "v" * 1_025 + '"} 1', "label_too_long"),
        ("a{" + ",".join(f'l{n}="v"' for n in range(31)) + "} 1", "too_many_labels"),
        ("good 2", "duplicate"),
        ('good{x=""} 2', "duplicate"),
    ],
)
def test_a_bad_line_is_counted_and_the_others_are_kept(line: str, reason: str) -> None:
    printed = read(f"good 1\n{line}\nbetter 2\n", "key_value")
    assert values(printed) == {"good": 1.0, "better": 2.0}
    assert printed.rejected == {reason: 1}


def test_a_json_object_gives_its_numbers_and_nested_names_are_joined() -> None:
    printed = read('{"a": 1, "b": {"c": 2.5, "d": {"e": true}}, "f": false}', "json")
    assert values(printed) == {"a": 1.0, "b_c": 2.5, "b_d_e": 1.0, "f": 0.0}
    assert [sample.series.metric for sample in printed.samples] == ["a", "b_c", "b_d_e", "f"]


def test_a_json_list_gives_names_values_and_labels() -> None:
    printed = read('[{"name": "q", "value": 3, "labels": {"x": "1"}}, {"name": "q", "value": 4}]', "json")
    assert values(printed) == {"q{x=1}": 3.0, "q": 4.0}


def test_what_is_no_number_in_json_is_counted() -> None:
    text = (
        '{"a": "1", "b": null, "c": [1], "d": NaN, "e": -Infinity, "f": 1e999, "g h": 1, "ok": 1, "big": 1' + "0" * 400
    )
    printed = read(text + "}", "json")
    assert values(printed) == {"ok": 1.0}
    assert printed.rejected == {"value": 3, "not_finite": 4, "name": 1}


def test_bad_entries_of_a_json_list_are_counted() -> None:
    entries = [1, {"name": 5, "value": 1}, {"value": 1}, {"name": "a"}, {"name": "a", "value": 1, "labels": []}]
    bad_labels = [{"name": "a", "value": 1, "labels": {"x": label}} for label in (1, "\x00", "\ud800")]
    printed = read(json.dumps([*entries, *bad_labels]), "json")
    assert printed == Printed((), {"entry": 1, "name": 2, "value": 1, "label": 4})


@pytest.mark.parametrize("text", ["", "{", "1", '"a"', "null", "[" * 100_000, "{} {}", "9" * 5_000])
def test_what_is_not_a_json_object_or_list_is_refused_as_a_whole(text: str) -> None:
    with pytest.raises(RejectedError) as caught:
        read(text, "json")
    assert caught.value.reason == "parse"


def test_named_groups_become_metrics() -> None:
    printed = read("total 48\n-rw-r--r-- 1 a b 5 f\n", RegexParse(regex=r"^total (?P<blocks>\d+)"))
    assert values(printed) == {"blocks": 48.0}


def test_groups_name_and_value_take_the_name_from_the_text_and_other_groups_are_labels() -> None:
    parse = RegexParse(regex=r"^(?P<name>\w+) on (?P<disk>\S*): (?P<value>\S+)$")
    printed = read("reads on a: 1\nreads on b: 2\nreads on : 3\nreads on c: x\n", parse)
    assert values(printed) == {"reads{disk=a}": 1.0, "reads{disk=b}": 2.0, "reads": 3.0}
    assert printed.rejected == {"value": 1}


def test_a_group_that_took_no_part_in_the_match_is_no_sample() -> None:
    printed = read("1\nx\n", RegexParse(regex=r"^(?:(?P<number>\d+)|(?P<word>x))$"))
    assert (values(printed), printed.rejected) == ({"number": 1.0}, {"value": 1})


def test_output_that_is_not_utf8_is_refused_unless_nothing_is_read_from_it() -> None:
    assert parse_output(b"\xff", parse="none", limits=LIMITS) == Printed(())
    with pytest.raises(RejectedError, match="byte 2 is 0xff") as caught:
        parse_output(b"a \xff", parse="key_value", limits=LIMITS)
    assert caught.value.reason == "encoding"


def test_more_samples_than_the_limit_refuse_the_whole_output() -> None:
    assert len(read("a 1\nb 1\n", "key_value", limits=Limits(samples=2)).samples) == 2
    with pytest.raises(RejectedError) as caught:
        read("a 1\nb 1\nc 1\n", "key_value", limits=Limits(samples=2))
    assert caught.value.reason == "too_many_samples"


def read_or_refused(output: bytes, parse: Parse) -> Printed:
    try:
        return parse_output(output, parse=parse, limits=LIMITS)
    except RejectedError as error:
        return Printed((), {error.reason: 1})


def check_promises(output: bytes, parse: Parse) -> None:
    printed = read_or_refused(output, parse)
    assert all(math.isfinite(sample.value) for sample in printed.samples)
    assert len({sample.series for sample in printed.samples}) == len(printed.samples)
    for series, _ in printed.samples:
        assert list(series.labels) == sorted(series.labels)
        text = series.metric + "".join(name + value for name, value in series.labels)
        assert "\x00" not in text
        text.encode()


@given(st.binary(), st.sampled_from(ALL_PARSES))
def test_any_bytes_are_read_or_refused(output: bytes, parse: Parse) -> None:
    check_promises(output, parse)


@given(st.text(alphabet='ab_0 1.e+-{}="\\,#\n\u0661', max_size=60), st.sampled_from(ALL_PARSES))
def test_any_text_that_looks_like_samples_is_read_or_refused(text: str, parse: Parse) -> None:
    check_promises(text.encode(), parse)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["name", "value", "labels", "a", "b", ""]) | st.text(max_size=3), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(JSON_VALUES)
def test_any_json_is_read_or_refused(document: object) -> None:
    check_promises(json.dumps(document).encode(), "json")


@given(
    st.dictionaries(
        st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True), st.floats(allow_nan=False, allow_infinity=False)
    )
)
def test_what_is_written_is_read_back_exactly(written: dict[str, float]) -> None:
    lines = "".join(f"{name} {value!r}\n" for name, value in written.items())
    assert values(read(lines, "key_value")) == written
    assert values(read(json.dumps(written), "json")) == written
