"""Processor times never fall, except where a processor, or the machine, began anew."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from aggregator.collectors.host.floor import CpuFloor

BOOT = "1700000000"
TIMES = [100, 0, 50, 10_000, 30, 0, 2, 1]


def test_a_time_that_falls_a_little_stays_where_it_was() -> None:
    floor = CpuFloor()
    assert floor.raised(BOOT, {"0": TIMES}) == {"0": TIMES}
    less_wait = [101, 0, 50, 10_020, 12, 0, 2, 1]
    assert floor.raised(BOOT, {"0": less_wait}) == {"0": [101, 0, 50, 10_020, 30, 0, 2, 1]}
    assert floor.raised(BOOT, {"0": [101, 0, 50, 10_020, 31, 0, 2, 1]})["0"][4] == 31


def test_a_processor_that_came_back_begins_anew_and_the_others_go_on() -> None:
    floor = CpuFloor()
    floor.raised(BOOT, {"0": TIMES, "1": TIMES})
    anew = [1, 0, 0, 5, 0, 0, 0, 0]
    assert floor.raised(BOOT, {"0": TIMES, "1": anew}) == {"0": TIMES, "1": anew}


def test_another_boot_begins_anew() -> None:
    floor = CpuFloor()
    floor.raised(BOOT, {"0": TIMES})
    assert floor.raised("1700000999", {"0": [1] * 8}) == {"0": [1] * 8}


def test_a_processor_that_was_offline_is_left_out_and_comes_back() -> None:
    floor = CpuFloor()
    floor.raised(BOOT, {"0": TIMES, "1": TIMES})
    assert floor.raised(BOOT, {"0": TIMES}) == {"0": TIMES}
    assert floor.raised(BOOT, {"0": TIMES, "1": [1] * 8})["1"] == [1] * 8


@given(st.lists(st.lists(st.integers(0, 299), min_size=8, max_size=8), min_size=1))
def test_no_time_ever_falls_while_idle_falls_by_less_than_three_seconds(readings: list[list[int]]) -> None:
    floor = CpuFloor()
    given_out = [floor.raised(BOOT, {"0": reading})["0"] for reading in readings]
    for before, after in pairwise(given_out):
        assert all(earlier <= later for earlier, later in zip(before, after, strict=True))
    assert given_out[-1] == [max(column) for column in zip(*readings, strict=True)]
