"""Whatever happened to a metrics file: the check agrees with the reader, and never raises."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import MultiProcessCollector

from aggregator.metric_files import readable_files


def content(labels: list[str]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "counter_0.db")  # noqa: PTH118 - the class wants text
        values = MmapedDict(path)  # type: ignore[no-untyped-call] # it has no annotations
        for label in labels:
            values.write_value(mmap_key("m", "m_total", ["l"], [label], "Help."), 1.5, 0.0)  # type: ignore[no-untyped-call] # as above
        values.close()  # type: ignore[no-untyped-call] # as above
        return Path(path).read_bytes()


@given(st.lists(st.text(max_size=30), unique=True, max_size=5))
def test_a_whole_file_is_readable(labels: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "counter_0.db")
        path.write_bytes(content(labels))
        assert readable_files(Path(folder)) == ([path] if labels else [])


@settings(max_examples=200)
@given(st.data())
def test_a_damaged_file_is_either_set_aside_or_can_be_read(data: st.DataObject) -> None:
    damaged = bytearray(content(["a", "bc", "def"])[:400])
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.integers(0, len(damaged)))]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "counter_0.db").write_bytes(bytes(damaged))
        files = readable_files(Path(folder))
        MultiProcessCollector.merge([str(path) for path in files])  # type: ignore[no-untyped-call] # as above
        assert readable_files(Path(folder)) == files
