"""The estimate of `check`: series and samples by the documented assumptions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aggregator.config.estimate import estimate
from aggregator.config.load import load_settings

if TYPE_CHECKING:
    from pathlib import Path

TEXT = """
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


def test_series_and_samples_follow_from_targets_and_intervals(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(TEXT)
    sources = estimate(load_settings(tmp_path / "a.toml", environment={"HOME": "/"}))
    assert [(source.name, source.targets, source.series, source.has_file_sd) for source in sources] == [
        ("p", 3, 1_003 + 1_003 + 303, True),
        ("h", 2, 306, False),
        ("c", 1, 8, False),
    ]
    assert [source.samples_per_second for source in sources] == [230.9, 306, 8 / 15]
