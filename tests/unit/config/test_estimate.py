"""The estimate of `check`: series and bytes by the documented assumptions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aggregator.config.estimate import estimate
from aggregator.config.load import load_settings

if TYPE_CHECKING:
    from pathlib import Path

TEXT = """
sample_retention = "1d"
[[sources]]
name = "p"
kind = "prometheus"
targets = ["http://a/m", "http://b/m", "http://127.0.0.1:9811/metrics"]
file_sd = ["x.json"]
interval = "10s"
[[sources]]
name = "h"
kind = "host"
nodes = ["a", "b"]
interval = "1s"
[[sources]]
name = "c"
kind = "command"
command = ["true"]
"""


def test_series_and_bytes_follow_from_targets_intervals_and_retention(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(TEXT)
    cost = estimate(load_settings(tmp_path / "a.toml", environment={"HOME": "/"}))
    assert [(source.name, source.targets, source.series, source.has_file_sd) for source in cost.sources] == [
        ("p", 3, 1_003 + 1_003 + 303, True),
        ("h", 2, 306, False),
        ("c", 1, 8, False),
    ]
    series = 2_309 + 306 + 8
    assert cost.series == series
    raw, one_minute, five_minutes, *_ = cost.tiers
    assert raw.size_bytes == raw.rows * 10
    assert raw.rows == round((230.9 + 306 + 8 / 15) * 86_400)
    assert one_minute.rows == series * 14 * 1_440
    assert one_minute.size_bytes == one_minute.rows * 64
    assert five_minutes.size_bytes == series * 90 * 288 * 128
    assert cost.size_bytes == sum(tier.size_bytes for tier in cost.tiers)
