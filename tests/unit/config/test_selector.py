"""Selectors: what Prometheus reads is read, what it refuses is refused with a remedy, and matching is by the book."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.config.selector import Matcher, Operator, Selector, parse_selector

LABEL_NAMES = st.sampled_from(["job", "instance", "a", "my.label", "_x9"])
VALUES = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=8)
PATTERNS = st.sampled_from([".*", ".+", "", "web.*", "a|b", "[a-c]+", r"\d{1,3}", "(x|)", r"a\.b"])
METRIC_NAMES = st.one_of(st.from_regex(r"[a-zA-Z_:][a-zA-Z0-9_:]{0,8}", fullmatch=True), VALUES.filter(bool))


@st.composite
def matchers(draw: st.DrawFn) -> Matcher:
    op: Operator = draw(st.sampled_from(["=", "!=", "=~", "!~"]))
    return Matcher(draw(LABEL_NAMES), op, draw(PATTERNS if "~" in op else VALUES))


@st.composite
def selectors(draw: st.DrawFn) -> Selector:
    name = Matcher("__name__", "=", draw(METRIC_NAMES))
    return Selector((name, *draw(st.lists(matchers(), max_size=4))))


@given(selectors())
def test_a_selector_written_as_text_is_read_as_the_same_selector(selector: Selector) -> None:
    assert parse_selector(str(selector)) == selector
    assert parse_selector(str(selector), anchored_name=True) == selector


def by_the_book(matcher: Matcher, value: str) -> bool:
    if "~" in matcher.op:
        found = re.fullmatch(matcher.value, value, re.DOTALL | re.ASCII) is not None
    else:
        found = value == matcher.value
    return found is not matcher.op.startswith("!")


@given(
    selectors(), st.dictionaries(LABEL_NAMES, st.sampled_from(["", "a", "web1", "b", "12", "a.b", "x"])), METRIC_NAMES
)
def test_a_series_matches_when_every_condition_is_met(selector: Selector, labels: dict[str, str], metric: str) -> None:
    values = {"__name__": metric} | labels
    expected = all(by_the_book(matcher, values.get(matcher.name, "")) for matcher in selector.matchers)
    assert selector.matches(metric, labels) is expected


@pytest.mark.parametrize(
    ("text", "matchers"),
    [
        ("node_load1", [("__name__", "=", "node_load1")]),
        ("a:b:c", [("__name__", "=", "a:b:c")]),
        ('x{a="b",c!="d",e=~"f|g",h!~"i"}', [("a", "=", "b"), ("c", "!=", "d"), ("e", "=~", "f|g"), ("h", "!~", "i")]),
        (' x { a = "b" , } # said', [("a", "=", "b")]),
        ("{__name__=~'go_.*'}", [("__name__", "=~", "go_.*")]),
        ('{"my.metric", "my.label"="x"}', [("__name__", "=", "my.metric"), ("my.label", "=", "x")]),
        (r'x{a="\"\\\n\x41\101é"}', [("a", "=", '"\\\nAAé')]),
        (r"x{a=~`\d+`}", [("a", "=~", r"\d+")]),
        (r'x{a="\u00e9\U0001F600\xc3\xa9"}', [("a", "=", "é\U0001f600é")]),
    ],
)
def test_prometheus_own_forms_are_read(text: str, matchers: list[tuple[str, str, str]]) -> None:
    found = [(matcher.name, matcher.op, matcher.value) for matcher in parse_selector(text).matchers]
    assert found == matchers or found == [("__name__", "=", text.strip()[0]), *matchers]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "column 1: expected a metric name or {"),
        ("9x", "column 1: expected a metric name or {"),
        ("{}", "would match every series"),
        ('{a=~".*",b!="c"}', "would match every series"),
        ('{a=""}', "would match every series"),
        ("x{a}", "column 4: expected =, !=, =~ or !~"),
        ('x{a=="b"}', "column 4: expected =, !=, =~ or !~"),
        ('x{a="b"', "column 8: expected , or }"),
        ('x{a="b" c="d"}', "column 9: expected , or }"),
        ("x{a=b}", "column 5: expected a value in quotes"),
        ('x{a="b}', "column 5: this quote is not closed"),
        ("x{,}", "column 3: expected a label name"),
        ("x[5m]", "column 2: expected nothing more"),
        ("x offset 5m", "column 3: expected nothing more"),
        ('x{__name__="y"}', "metric name is set twice"),
        ('{""}', "cannot be empty"),
        (r'x{a="\."}', r"\. is no escape; write \\., or put the string in `...`"),
        (r"""x{a="\'"}""", "write '"),
        ('x{a="\n"}', "write \\n"),
        (r'x{a="\xff"}', "not UTF-8"),
        (r'x{a="\x00"}', "no byte that a label can hold"),
        (r'x{a="\777"}', "no byte that a label can hold"),
        (r'x{a="\ud800"}', "no character that a label can hold"),
        (r'x{a="\U00110000"}', "no character that a label can hold"),
        ('x{a=~"("}', "cannot be used: missing )"),
        ("node-load1", "column 5: expected nothing more"),
    ],
)
def test_what_prometheus_refuses_is_refused_with_its_place_and_a_remedy(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_selector(text)


@pytest.mark.parametrize(
    ("text", "matches", "refuses"),
    [
        ("go_.*", "go_threads", "mango_x"),
        ("go_.*|process_.*", "process_x", "x_process_x"),
        ("x_.{2,3}", "x_ab", "x_abcd"),
        (r"x[{}]", "x{", "x"),
        ("node_load1", "node_load1", "node_load15"),
        ("{}", "anything", None),
        ("", None, None),
    ],
)
def test_names_in_keep_and_drop_are_anchored_regular_expressions(
    text: str, matches: str | None, refuses: str | None
) -> None:
    if matches is None:
        with pytest.raises(ValueError, match="expected a metric name"):
            parse_selector(text, anchored_name=True)
        return
    selector = parse_selector(text, anchored_name=True)
    assert selector.matches(matches, {})
    assert refuses is None or not selector.matches(refuses, {})


def test_a_name_expression_may_be_followed_by_conditions() -> None:
    selector = parse_selector('node_.{2,}{mode!="idle"}', anchored_name=True)
    assert selector.matches("node_cpu", {"mode": "user"})
    assert selector.matches("node_cpu", {})
    assert not selector.matches("node_cpu", {"mode": "idle"})


def test_the_one_metric_that_can_match_is_known() -> None:
    assert parse_selector('up{job="a"}').metric == "up"
    assert parse_selector('{__name__=~"up"}').metric is None
