"""The setting `quantiles` of a source: all gauges, none, or those that selectors match."""

from __future__ import annotations

from pathlib import Path

import pytest

from aggregator.config.load import load_settings
from aggregator.config.source_model import BaseSource
from aggregator.errors import ConfigurationError


def source(folder: Path, quantiles: str | None) -> BaseSource:
    path = folder / "a.toml"
    written = "" if quantiles is None else f"quantiles = {quantiles}\n"
    path.write_text(f'[[sources]]\nname = "h"\nkind = "host"\n{written}')
    (read,) = load_settings(path, environment={"HOME": str(folder)}).sources
    assert isinstance(read, BaseSource)
    return read


def matched(read: BaseSource) -> list[str]:
    names = ("node_load1", "node_load15", "node_memory_MemFree_bytes")
    return [name for name in names if any(one.matches(name, {"job": "h"}) for one in read.quantile_selectors())]


def test_true_stands_for_all_false_and_nothing_for_none(tmp_path: Path) -> None:
    assert len(matched(source(tmp_path, "true"))) == 3
    assert (
        matched(source(tmp_path, "false")) == matched(source(tmp_path, None)) == matched(source(tmp_path, "[]")) == []
    )


def test_names_in_a_list_of_selectors_are_anchored_expressions(tmp_path: Path) -> None:
    assert matched(source(tmp_path, '["node_load.", "node_m"]')) == ["node_load1"]
    assert matched(source(tmp_path, """['{__name__=~"node_load.*",job="h"}']""")) == ["node_load1", "node_load15"]


@pytest.mark.parametrize(
    ("written", "field", "reason"),
    [
        ('"node_load1"', "quantiles", 'neither true nor a list of selectors such as ["node_load.*"]'),
        ("1", "quantiles", "neither true nor a list"),
        ("[1]", "quantiles[0]", "a text in quotes"),
        ('["node_load1", "node_("]', "quantiles[1]", "cannot be used"),
        ("""['node_load1{job="other"}']""", "quantiles[0]", "matches nothing"),
    ],
)
def test_what_is_wrong_names_the_line_and_the_field(tmp_path: Path, written: str, field: str, reason: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        source(tmp_path, written)
    (fault,) = (str(one) for one in caught.value.faults)
    assert fault.startswith(f'{tmp_path}/a.toml:4: [[sources]] "h": {field}: ')
    assert reason in fault
