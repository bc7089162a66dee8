"""Each child's share of the memory that a container may take."""

from __future__ import annotations

from pathlib import Path

import pytest

from aggregator.config.memory import memory_share


@pytest.mark.parametrize(
    ("written", "children", "share"),
    [
        ("max\n", 2, 2_000_000),
        ("2147483648\n", 2, 734_003),
        ("2147483648\n", 1, 1_468_006),
        ("268435456\n", 4, 200_000),
        ("68719476736\n", 2, 2_000_000),
    ],
)
def test_children_share_what_is_allowed(tmp_path: Path, written: str, children: int, share: int) -> None:
    (tmp_path / "memory.max").write_text(written)
    assert memory_share(children, most=2_000_000, limit_file=tmp_path / "memory.max") == share


def test_without_a_limit_it_is_the_most(tmp_path: Path) -> None:
    assert memory_share(2, most=2_000_000, limit_file=tmp_path / "none") == 2_000_000
