"""Pages by number over all partitions, and what parts of a sample say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.storage.sampled_pages import Counted, Leaf, Part, pages_of

PAGES = st.lists(st.integers(0, 5), min_size=1, max_size=6)


@given(pages=PAGES)
def test_each_number_is_a_page_of_its_own(pages: list[int]) -> None:
    leaves = [Leaf(f"p{place}", count, 0) for place, count in enumerate(pages)]
    found = pages_of(leaves, range(sum(pages)))
    assert found == [(leaf.name, page) for leaf in leaves for page in range(leaf.pages)]


def test_shares_are_of_bytes_and_sizes_relative_to_the_average() -> None:
    counted = Counted(1_000, is_exact=False, parts={1: Part(100, 300), 2: Part(100, 100), 3: Part(0, 0)})
    assert [counted.share_of(source_id) for source_id in (1, 2, 3, 4)] == [0.75, 0.25, 0, 0]
    assert counted.relative_size_of(1) == pytest.approx(1.5)
    assert counted.relative_size_of(2) == pytest.approx(0.5)
    assert counted.relative_size_of(3) is None
    assert counted.relative_size_of(4) is None
    assert Counted(0, is_exact=True).share_of(1) == 0
