"""The configuration's hash: equal where nodes agree, and only there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from aggregator.config.digest import config_hash
from aggregator.config.load import load_settings

if TYPE_CHECKING:
    from pathlib import Path

SOURCES = ['[[sources]]\nname = "a"\nkind = "host"\n', '[[sources]]\nname = "b"\nkind = "host"\ninterval = "5s"\n']


def hash_of(folder: Path, text: str) -> str:
    (folder / "a.toml").write_text(text)
    return config_hash(load_settings(folder / "a.toml", environment={"HOME": "/"}))


@pytest.mark.parametrize(
    "other",
    [
        SOURCES[1] + SOURCES[0],
        'node = "x"\nweb_listen = "h:1"\ncache_url = "redis://h"\ndata_dir = "/x"\n' + SOURCES[0] + SOURCES[1],
        SOURCES[0] + SOURCES[1] + '[[tiers]]\nname = "1d"\nretention = "3650d"\n',
    ],
)
def test_what_is_a_nodes_own_and_how_it_is_written_does_not_count(tmp_path: Path, other: str) -> None:
    first = hash_of(tmp_path, SOURCES[0] + SOURCES[1])
    assert re.fullmatch("[0-9a-f]{12}", first)
    assert hash_of(tmp_path, other) == first


@pytest.mark.parametrize(
    "other",
    [
        SOURCES[0],
        SOURCES[0] + SOURCES[1] + 'keep = ["x"]\n',
        'lateness = "3m"\n' + SOURCES[0] + SOURCES[1],
        SOURCES[0] + SOURCES[1] + '[[tiers]]\nname = "1d"\nretention = "1y"\n',
        SOURCES[0] + SOURCES[1] + '[[summaries]]\nname = "s"\nselect = "up"\n',
    ],
)
def test_whatever_nodes_must_agree_on_changes_the_hash(tmp_path: Path, other: str) -> None:
    assert hash_of(tmp_path, other) != hash_of(tmp_path, SOURCES[0] + SOURCES[1])
