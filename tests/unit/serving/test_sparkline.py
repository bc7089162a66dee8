"""Trends as a line of text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aggregator.serving.sparkline import is_trend, sparkline

AT = "2026-03-01T00:00:00+00:00"
values = st.none() | st.floats(allow_nan=False, allow_infinity=False)


def test_bars_reach_from_the_least_to_the_greatest() -> None:
    assert sparkline([[AT, value] for value in (0, 1, 2, 3, 4, 5, 6, 7, None)]) == "▁▂▃▄▅▆▇█ "
    assert sparkline([[AT, 5.0], [AT, 5.0]]) == "▅▅"
    assert sparkline([[AT, None]]) == " "


@given(st.lists(values, min_size=1))
def test_every_trend_has_a_line_of_its_length(found: list[float | None]) -> None:
    points = [[AT, value] for value in found]
    assert is_trend(points)
    assert len(sparkline(points)) == len(found)


def test_other_lists_are_no_trends() -> None:
    for other in ([], [1, 2], [[AT]], [[1, 2]], [[AT, "x"]], "text", None):
        assert not is_trend(other)
