"""Packing gives back every bit, whatever the doubles, and never takes much more room than they do."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from aggregator.rollups.decimals import MOST_PLACES
from aggregator.rollups.packed import DTYPES, OFFSETS, Form, Packed, Part, unpack
from aggregator.rollups.packing import pack
from tests.effort import examples
from tests.packable import DATA, Floats, have_equal_bits

#: The header of an array in PostgreSQL, of a bytea, and what a series takes beside its arrays, at the most.
ARRAY_HEADER, BYTEA_HEADER, SCALARS = 24, 4, 16


def whole(values: Floats) -> Packed:
    return pack(values, np.ones(values.shape, dtype=np.bool_))


def bytes_of(part: Part) -> int:
    """What PostgreSQL takes for the longest of the part's series, uncompressed."""
    arrays = part.elements[0].nbytes + part.corrections[0].nbytes
    return arrays + (ARRAY_HEADER if part.form > Form.CONSTANT else 0) + BYTEA_HEADER * part.shape[1] + SCALARS


def only_part(values: list[float]) -> Part:
    (part,) = whole(np.array([values])).parts
    return part


@given(DATA)
@settings(max_examples=examples(150))
def test_every_value_comes_back_with_its_bits(values: Floats) -> None:
    assert have_equal_bits(values, unpack(whole(values)))


@given(DATA, st.data())
@settings(max_examples=examples(50))
def test_what_is_not_given_changes_nothing_of_what_is(values: Floats, data: st.DataObject) -> None:
    given_ = data.draw(st_numpy.arrays(np.bool_, values.shape))
    back = unpack(pack(values, given_))
    assert have_equal_bits(values[given_], back[given_])


@given(DATA)
@settings(max_examples=examples(50))
def test_a_series_takes_no_more_than_its_doubles_but_for_its_scalars(values: Floats) -> None:
    plain = ARRAY_HEADER + values[0].nbytes
    assert all(bytes_of(part) <= plain + SCALARS + BYTEA_HEADER for part in whole(values).parts)


@given(DATA)
@settings(max_examples=examples(50))
def test_every_series_is_in_one_part_of_its_shape(values: Floats) -> None:
    parts = whole(values).parts
    assert sorted(line for part in parts for line in part.lines) == list(range(len(values)))
    assert len({part.shape for part in parts}) == len(parts)


@given(DATA)
@settings(max_examples=examples(50))
def test_scalars_are_exact_in_the_columns_that_hold_them(values: Floats) -> None:
    for part in whole(values).parts:
        assert part.elements.dtype == DTYPES.get(part.form, np.float64)
        for scalar in (part.divisor, part.unit):
            assert (scalar.astype(np.float32) == scalar).all()


@pytest.mark.parametrize("places", range(MOST_PLACES + 1))
def test_decimals_are_offsets_whatever_their_places(places: int) -> None:
    part = only_part([float(f"{number}e-{places}") for number in range(7, 60_000, 1_001)])
    assert part.form is Form.SHORTS
    assert not part.shape[1]


@pytest.mark.parametrize(
    ("values", "form"),
    [
        ([math.nan, math.nan], Form.NOTHING),
        ([-0.0, -0.0], Form.CONSTANT),
        ([math.inf, math.inf], Form.CONSTANT),
        ([0.0, 255.0], Form.BYTES),
        ([-1.0, 0.0, 255.0], Form.SHORTS),
        ([1e12, 1e12 + 65_535], Form.SHORTS),
        ([1e12, 1e12 + 65_536.5], Form.INTS),
        ([4096.0 * 70_001, 0.0, 4096.0 * 255], Form.INTS),
        ([4096.0 * 255, 0.0], Form.BYTES),
        ([0.0, -0.0], Form.SINGLES),
        ([1.0, math.nan], Form.SINGLES),
        ([math.pi, math.e], Form.DOUBLES),
        ([math.pi, math.nan], Form.DOUBLES),
    ],
)
def test_the_narrowest_exact_form_is_taken(values: list[float], form: Form) -> None:
    assert only_part(values).form is form


def test_sums_of_decimals_are_offsets_with_corrections() -> None:
    part = only_part([0.1 + 0.2, 0.3, 0.7 + 0.1 + 0.1, 0.25])
    assert part.form in OFFSETS
    assert part.shape[1]


def test_a_gap_repeats_what_was_before_it_so_that_a_constant_stays_one() -> None:
    values = np.array([[math.nan, 3.0, math.nan, 3.0]])
    (part,) = pack(values, ~np.isnan(values)).parts
    assert part.form is Form.CONSTANT


def test_no_series_at_all_is_packed_too() -> None:
    assert unpack(whole(np.zeros((0, 5)))).shape == (0, 5)


def test_integers_come_back_as_doubles() -> None:
    counts = np.array([[4, 3, 4], [0, 70_000, 2]])
    assert have_equal_bits(counts.astype(np.float64), unpack(pack(counts, np.ones(counts.shape, dtype=np.bool_))))
