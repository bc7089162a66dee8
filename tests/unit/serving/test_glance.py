"""The glance at a machine, from readings of two instants."""

from __future__ import annotations

import pytest

from aggregator.storage.health_glance import Reading, glance


def cpu(label: str, value: float) -> Reading:
    return Reading("node_cpu_seconds_total", label, value)


def test_busy_is_what_was_neither_idle_nor_waiting() -> None:
    before = [cpu("idle 0", 100), cpu("user 0", 10), cpu("iowait 0", 5)]
    after = [cpu("idle 0", 106), cpu("user 0", 13), cpu("iowait 0", 6)]
    assert glance("a", after, before).cpu_busy_ratio == pytest.approx(0.3)


def test_a_counter_that_fell_after_a_restart_counts_nothing() -> None:
    before = [cpu("idle 0", 1_000), cpu("user 0", 500)]
    after = [cpu("idle 0", 1), cpu("user 0", 502)]
    assert glance("a", after, before).cpu_busy_ratio == 1.0


def test_one_frame_alone_does_not_tell_the_share_of_the_cpu() -> None:
    assert glance("a", [cpu("idle 0", 1)]).cpu_busy_ratio is None


def test_memory_load_and_the_fullest_disk_come_from_the_newest_frame() -> None:
    seen = glance(
        "a",
        [
            Reading("node_load1", "", 0.5),
            Reading("node_memory_MemTotal_bytes", "", 200),
            Reading("node_memory_MemAvailable_bytes", "", 50),
            Reading("node_filesystem_size_bytes", "/", 100),
            Reading("node_filesystem_avail_bytes", "/", 90),
            Reading("node_filesystem_size_bytes", "/var", 100),
            Reading("node_filesystem_avail_bytes", "/var", 20),
            Reading("node_filesystem_size_bytes", "/proc", 0),
            Reading("node_filesystem_avail_bytes", "/proc", 0),
        ],
    )
    assert (seen.load1, seen.memory_used_ratio) == (0.5, 0.75)
    assert seen.disk_fullest_ratio == pytest.approx(0.8)
    assert seen.disk_mountpoint == "/var"


def test_a_machine_that_sent_nothing_known_has_no_figures() -> None:
    seen = glance("a", [])
    assert (seen.load1, seen.memory_used_ratio, seen.disk_fullest_ratio, seen.disk_mountpoint) == (None,) * 4
