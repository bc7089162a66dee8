"""OpenMetrics with timestamps: the fast path reads what the strict one reads, and refuses what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.config.source_model import Limits
from aggregator.errors import RejectedError
from aggregator.exposition.exposed import NO_TIMESTAMP_MS
from aggregator.exposition.history import Damage, Piece
from aggregator.exposition.history_openmetrics import OpenMetricsHistory
from aggregator.exposition.lines import cut_openmetrics_sample
from aggregator.exposition.strict import StrictReader, declare

Row = tuple[str, tuple[tuple[str, str], ...], int, float]

_SERIES = (
    b"up",
    b'up{job="a"}',
    b'up{job="a b",le="+Inf"}',
    b"{}",
    b'x{a="\\"}"}',
    b'x{a="1",a="2"}',
    b'x{a="\xff"}',
    b"x{}",
)
_NUMBERS = (
    b"1",
    b"-0.5",
    b"1e3",
    b"NaN",
    b"nan",
    b"+Inf",
    b"-inf",
    b"1e999",
    b"1_0",
    b"",
    b" 1",
    b"0x1",
    b"12.",
    b"-nan",
)
_TIMES = (b"1", b"1.5", b"1700000000.123", b"1e9", b"-3", b"1e300", b"nan", b"Inf", b"", b"1.0005")
_OTHER = (
    b"",
    b"# TYPE up gauge",
    b"# TYPE up nonsense",
    b"# HELP up it's up",
    b"#",
    b"# free",
    b"up",
    b"up 1",
    b"up 1 2 3",
)
_EXEMPLAR = b' # {trace="a b"} 0.5 1.5'

line = st.one_of(
    st.builds(
        lambda *parts: b" ".join(parts[:3]) + parts[3],
        st.sampled_from(_SERIES),
        st.sampled_from(_NUMBERS),
        st.sampled_from(_TIMES),
        st.sampled_from([b"", b"", b"", _EXEMPLAR, b" ", b"\r"]),
    ),
    st.sampled_from(_OTHER),
)
#: Lines of one series in a row, as a dump has them, with now and then another one among them.
runs = st.builds(
    lambda series, count, value, odd, place: [
        *(b"%s %s %d" % (series, value, number) for number in range(place % count)),
        *odd,
        *(b"%s %d.5 %d.25" % (series, number, number) for number in range(place % count, count)),
    ],
    st.sampled_from(_SERIES),
    st.integers(1, 80),
    st.sampled_from(_NUMBERS),
    st.lists(line, max_size=1),
    st.integers(0, 80),
)


def rows_of(reader: OpenMetricsHistory, blocks: list[bytes]) -> tuple[list[Row], list[Damage]]:
    """What a reader makes of blocks, with series by name; fails where an index does not belong to a series."""
    named: list[tuple[str, tuple[tuple[str, str], ...]]] = []
    rows: list[Row] = []
    damages: list[Damage] = []
    for block in blocks:
        piece: Piece = reader.read(block)
        named += piece.named
        damages += piece.damages
        for series, at_ms, value in zip(piece.series, piece.at_ms, piece.values, strict=True):
            rows.append((*named[series], int(at_ms), float(value)))
    assert len(named) == reader.series_count
    return rows, damages


def strict_row(text: bytes) -> Row | None:
    text.decode()
    if text.startswith(b"#"):
        declare(text, is_text=False, types={})
        return None
    cut = cut_openmetrics_sample(text)
    if cut.timestamp_ms == NO_TIMESTAMP_MS:
        raise RejectedError("no_timestamp", "")
    return *StrictReader(Limits()).name(cut.prefix, text), cut.timestamp_ms, cut.value


def strict_rows(lines: list[bytes]) -> tuple[list[Row], list[int]]:
    """The same by the rules of a scrape, a line at a time: the rows, and the numbers of damaged lines."""
    rows: list[Row] = []
    damaged: list[int] = []
    for number, text in enumerate(lines, 1):
        try:
            row = strict_row(text)
        except (RejectedError, UnicodeDecodeError):
            damaged.append(number)
            continue
        if row is not None and not math.isnan(row[3]):
            rows.append(row)
    return rows, damaged


@settings(max_examples=300)
@given(st.lists(st.one_of(line.map(lambda one: [one]), runs), max_size=20), st.integers(0, 60))
def test_the_fast_path_reads_what_the_strict_one_reads(stretches: list[list[bytes]], split: int) -> None:
    lines = [text for stretch in stretches for text in stretch]
    blocks = [b"".join(text + b"\n" for text in part) for part in (lines[:split], lines[split:])]
    # Once more, so that every series is known and the fast path takes what it can.
    found, damages = rows_of(OpenMetricsHistory(Limits()), [*blocks, b"".join(blocks)])
    expected, damaged = strict_rows([*lines, *lines])
    assert found == expected
    assert [damage.line for damage in damages] == damaged


def read(text: bytes, limits: Limits | None = None) -> Piece:
    return OpenMetricsHistory(limits or Limits()).read(text)


@pytest.mark.parametrize("blank", [b"\t", b"\r", b"\v", b"\f", b"\n"])
def test_blanks_that_are_no_dividers_do_not_shift_the_parts_of_a_run(blank: bytes) -> None:
    lines = [b"a 1 %d" % number for number in range(64)]
    lines[20:22] = [b"a 1" + blank + b"2 3", b"a 4 "]
    found, damages = rows_of(OpenMetricsHistory(Limits()), [b"".join(text + b"\n" for text in lines)] * 2)
    expected, damaged = strict_rows(b"\n".join(lines * 2).split(b"\n"))
    assert found == expected
    assert [damage.line for damage in damages] == damaged


def test_seconds_with_decimals_become_milliseconds() -> None:
    piece = read(b"a 1 1700000000.123\na 2 1700000000.1235\na 3 1.5e9\n")
    assert piece.at_ms.tolist() == [1_700_000_000_123, 1_700_000_000_124, 1_500_000_000_000]
    assert piece.series.tolist() == [0, 0, 0]


def test_nan_is_no_sample_and_is_counted() -> None:
    piece = read(b"a NaN 1\na 1 2\na nan 3\n")
    assert (piece.values.tolist(), piece.nans) == ([1.0], 2)


def test_infinities_are_values_and_too_large_decimals_are_damage() -> None:
    piece = read(b"a +Inf 1\na -Inf 2\na 1e999 3\na 1 4\n")
    np.testing.assert_array_equal(piece.values, [np.inf, -np.inf, 1])
    assert [(damage.line, damage.reason) for damage in piece.damages] == [(3, "parse")]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"a 1\n", "no_timestamp"),
        (b"a one 1\n", "parse"),
        (b"a 1 noon\n", "parse"),
        (b"a  1 1\n", "parse"),
        (b"1a 1 1\n", "parse"),
        (b"\n", "parse"),
        (b'a{b="\xff"} 1 1\n', "encoding"),
        (b'a{b="\0"} 1 1\n', "encoding"),
        (b"a 1 1e300\n", "parse"),
        (b"a{" + b",".join(b'l%d="1"' % number for number in range(31)) + b"} 1 1\n", "too_many_labels"),
        (b'a{b="' + b"x" * 1_025 + b'"} 1 1\n', "label_too_long"),
        (b"a" * 129 + b" 1 1\n", "label_too_long"),
    ],
)
def test_a_damaged_line_is_named_with_its_reason_and_the_others_are_read(text: bytes, reason: str) -> None:
    piece = read(b"ok 1 1\n" + text + b"ok 2 2\n")
    assert [(damage.line, damage.reason) for damage in piece.damages] == [(2, reason)]
    assert "nothing of this scrape" not in piece.damages[0].message
    assert piece.values.tolist() == [1, 2]


def test_a_file_without_its_last_line_was_cut_off() -> None:
    reader = OpenMetricsHistory(Limits())
    reader.read(b"a 1 1\n")
    damage = reader.finish(b"a 1 1.")
    assert damage is not None
    assert (damage.line, damage.reason) == (2, "truncated")
    assert reader.finish(b"# EOF") is None
    reader.read(b"# EOF\n")
    assert reader.finish(b"") is None
    assert reader.finish(b"a 1 1") is not None


@pytest.mark.parametrize("blocks", [[b"a 1 1\n# EOF\na 2 2\n# EOF\n"], [b"a 1 1\n# EOF\n", b"a 2 2\n# EOF\n"]])
def test_what_follows_the_end_is_damage_and_is_read_on(blocks: list[bytes]) -> None:
    reader = OpenMetricsHistory(Limits())
    rows, damages = rows_of(reader, blocks)
    assert [row[3] for row in rows] == [1, 2]
    assert [(damage.line, damage.reason) for damage in damages] == [(3, "after_end")]
    assert reader.finish(b"") is None


def test_a_reader_goes_on_with_the_numbers_of_the_one_before() -> None:
    reader = OpenMetricsHistory(Limits(), 7, 2, {"a": "gauge"})
    piece = reader.read(b"a 1 1\nbad\n# TYPE b counter\n")
    assert piece.series.tolist() == [2]
    assert piece.damages[0].line == 9
    assert reader.types == {"a": "gauge", "b": "counter"}
