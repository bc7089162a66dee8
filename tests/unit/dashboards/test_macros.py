"""Macros and variables are expanded as Grafana does it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.dashboards.macros import Span, UnknownMacroError, expand
from tests.dashboards.variables import Value, filled

START = datetime(2026, 3, 9, 12, 0, 0, 250_000, tzinfo=UTC)
FINISH = START + timedelta(hours=3)
SPAN = Span(START, FINISH, timedelta(minutes=5))


@pytest.mark.parametrize(
    ("macro", "expected"),
    [
        ("$__timeFrom()", "'2026-03-09T12:00:00.25Z'"),
        ("$__timeTo()", "'2026-03-09T15:00:00.25Z'"),
        ("$__timeFilter(time)", "time BETWEEN '2026-03-09T12:00:00.25Z' AND '2026-03-09T15:00:00.25Z'"),
        ("$__timeGroup(time, '5m')", "floor(extract(epoch from time)/300)*300"),
        ("$__timeGroup(time,$__interval)", "floor(extract(epoch from time)/300)*300"),
        ("$__timeGroupAlias(time, '1d')", 'floor(extract(epoch from time)/86400)*86400 AS "time"'),
        ("$__unixEpochFilter(at)", "at >= 1773057600 AND at <= 1773068400"),
        ("$__unixEpochFrom() $__unixEpochTo()", "1773057600 1773068400"),
        ("$__unixEpochGroup(at, '1h')", "floor((at)/3600)*3600"),
        ("$__interval_ms '$__interval'", "300000 '5m'"),
        ("$__time(at)", 'at AS "time"'),
        ("price * $1", "price * $1"),
    ],
)
def test_a_macro_becomes(macro: str, expected: str) -> None:
    assert expand(macro, SPAN) == expected


@pytest.mark.parametrize("text", ["$__timeFilte(time)", "$__timeGroup(time)", "$__timeGroup(time, 'often')", "$own(x)"])
def test_what_grafana_refuses_is_refused(text: str) -> None:
    with pytest.raises(UnknownMacroError):
        expand(text, SPAN)


@pytest.mark.parametrize(
    ("hours", "shortest", "seconds"), [(3, "1m", 60), (24, "1m", 300), (24 * 7, "1m", 1_800), (0.25, "1s", 2)]
)
def test_the_interval_is_rounded_and_never_shorter_than_the_panel_allows(
    hours: float, shortest: str, seconds: int
) -> None:
    span = Span.of(START, START + timedelta(hours=hours), shortest=shortest, points=400)
    assert span.interval == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        ("'$name'", Value("it's"), "'it''s'"),
        ("IN ($name)", Value(("it's", "b"), is_multiple=True), "IN ('it''s','b')"),
        ("IN ($name)", Value("a", is_multiple=True), "IN ('a')"),
        ("IN ($name)", Value((), is_multiple=True, all_text="name"), "IN (name)"),
        ("${name:regex}", Value(("10.0.0.1:9100", "b"), is_multiple=True), r"(10\.0\.0\.1:9100|b)"),
        ("${name:regex}", Value(("a+",), is_multiple=True), r"a\+"),
        ("${name:regex}", Value((), is_multiple=True, all_text=".*"), ".*"),
        ("${name:sqlstring}", Value("it's"), "'it''s'"),
        ("$__interval_ms $__timeFrom() $names", Value("x"), "$__interval_ms $__timeFrom() $names"),
    ],
)
def test_a_variable_is_filled_in(text: str, value: Value, expected: str) -> None:
    assert filled(text, {"name": value}) == expected
