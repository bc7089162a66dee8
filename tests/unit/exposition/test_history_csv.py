"""CSV of samples: which columns there may be, what they may hold, and one path as the other."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.config.source_model import Limits
from aggregator.errors import RejectedError
from aggregator.exposition.history import Piece
from aggregator.exposition.history_csv import CsvHistory

NOON_MS = 1_769_860_800_000


def reader(header: bytes) -> CsvHistory:
    return CsvHistory(Limits(), line=1, header=header)


def read(header: bytes, text: bytes) -> Piece:
    return reader(header).read(text)


@pytest.mark.parametrize(
    ("header", "line"),
    [
        (b"metric,labels,time,value", b'load,"{""job"":""node"",""instance"":""a,b""}",2026-01-31T12:00:00Z,1.5\n'),
        (b"metric,labels,value,time", b'load,"{""job"":""node"",""instance"":""a,b""}",1.5,1769860800\n'),
        (b"time,metric,value,job,instance", b'2026-01-31T13:00:00+01:00,load,1.5,node,"a,b"\n'),
        (b"metric,job,time,value,instance", b'load,node,"1769860800.000","1.5","a,b"\n'),
        (b"\xef\xbb\xbfmetric, job ,instance,labels,time,value", b'load,node,"a,b","{""x"":""""}",1769860800,1.5\n'),
    ],
)
def test_columns_may_stand_in_any_order(header: bytes, line: bytes) -> None:
    piece = read(header, line + line)
    assert piece.damages == ()
    (metric, labels) = piece.named[0]
    assert (metric, {name: text for name, text in labels if text}) == ("load", {"instance": "a,b", "job": "node"})
    assert (piece.series.tolist(), piece.at_ms.tolist(), piece.values.tolist()) == ([0, 0], [NOON_MS] * 2, [1.5] * 2)


def test_an_empty_cell_is_no_label() -> None:
    piece = read(b"metric,job,zone,time,value", b"load,node,,1,1\n")
    assert piece.named == (("load", (("job", "node"),)),)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"load,node,2026-01-31T12:00:00,1\n", "no_offset"),
        (b"load,node,2026-01-31,1\n", "no_offset"),
        (b"load,node,yesterday,1\n", "parse"),
        (b"load,node,1,one\n", "parse"),
        (b"load,node,1,1_0\n", "parse"),
        (b"load,node,1\n", "parse"),
        (b'load,"node,1,1\n', "parse"),
        (b'"load,node,1,1\n', "parse"),
        (b"1load,node,1,1\n", "parse"),
        (b"load,n\xffde,1,1\n", "encoding"),
        (b"load,n\0de,1,1\n", "encoding"),
        (b"\n", "parse"),
        (b"load," + b"x" * 1_025 + b",1,1\n", "label_too_long"),
    ],
)
def test_a_damaged_record_is_named_with_its_reason(line: bytes, reason: str) -> None:
    piece = read(b"metric,job,time,value", b"load,node,1,1\n" + line + b"load,node,2,2\n")
    assert [(damage.line, damage.reason) for damage in piece.damages] == [(3, reason)]
    assert piece.values.tolist() == [1, 2]


@pytest.mark.parametrize("labels", ["[]", '{"a": 1}', "{", '{"a": "\\ud800"}', '{"a": "\\u0000"}', '{"a b": "1"}'])
def test_labels_must_be_an_object_of_texts_that_can_be_stored(labels: str) -> None:
    cell = '"' + labels.replace('"', '""') + '"'
    assert len(read(b"metric,labels,time,value", f"load,{cell},1,1\n".encode()).damages) == 1


@pytest.mark.parametrize("header", [b"", b"metric,time", b"metric,time,value,", b"metric,time,value,a,a", b'"metric'])
def test_a_header_that_names_too_little_is_refused(header: bytes) -> None:
    with pytest.raises(RejectedError):
        reader(header)


def test_a_last_line_without_its_line_feed_may_have_been_cut_off() -> None:
    damage = reader(b"metric,time,value").finish(b"load,1,12")
    assert damage is not None
    assert damage.reason == "truncated"
    assert reader(b"metric,time,value").finish(b"") is None


texts = st.text(st.characters(exclude_characters="\0\r\n", exclude_categories=["Cs"]), max_size=8)
records = st.tuples(texts, texts, st.sampled_from(["1", "2.5", "2026-01-31T12:00:00Z"]), st.floats(allow_nan=False))


@settings(max_examples=200)
@given(st.lists(records, max_size=12), st.permutations(["metric", "labels", "zone", "time", "value"]))
def test_what_a_csv_library_writes_is_read_back(rows: list[tuple[str, str, str, float]], columns: list[str]) -> None:
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    for label, zone, time, value in rows * 2:
        cells = {"metric": "m", "labels": json.dumps({"a": label}), "zone": zone, "time": time, "value": repr(value)}
        writer.writerow(cells)
    made = reader(",".join(columns).encode())
    piece = made.read(out.getvalue().encode())
    assert piece.damages == ()
    found = [(dict(piece.named[series][1]), value) for series, value in zip(piece.series, piece.values, strict=True)]
    assert found == [
        ({name: text for name, text in (("a", label), ("zone", zone)) if text or name == "a"}, value)
        for label, zone, _, value in rows * 2
    ]
