"""Sealed rows on the wire come back as they were packed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from aggregator.rollups.packed import unpack
from aggregator.rollups.packing import pack
from aggregator.storage.sealed_columns import columns_of
from aggregator.storage.sealed_wire import decode_rows, encode_rows, unwire, wire
from tests.effort import examples
from tests.packable import DATA, Floats, have_equal_bits


def there_and_back(values: Floats, statistic: str) -> Floats:
    packed = pack(values, np.ones(values.shape, dtype=np.bool_))
    names = tuple(columns_of([statistic]))
    data = encode_rows(wire(packed, statistic), names) + b"\xff\xff"
    read = decode_rows(memoryview(data), names)
    assert read.count == len(values)
    return unpack(unwire(read, statistic, buckets=values.shape[1]))


@given(values=DATA)
@settings(max_examples=examples(200))
def test_every_bit_comes_back(values: Floats) -> None:
    assert have_equal_bits(values, there_and_back(values, "sum"))


def test_whole_numbers_have_no_columns_for_others() -> None:
    assert have_equal_bits(np.array([[1.0, 70_000.0]]), there_and_back(np.array([[1.0, 70_000.0]]), "count"))
    with pytest.raises(ValueError, match="whole numbers"):
        there_and_back(np.array([[0.1, 1e300]]), "count")
