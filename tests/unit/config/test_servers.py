"""URLs of the servers that `aggregator up` runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from aggregator.config.load import load_settings
from aggregator.config.servers import require_broker_url, require_cache_url, require_database_url, with_running_servers
from aggregator.errors import EnvironmentRefusedError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from aggregator.config.model import Settings


def settings(data_dir: Path, **environment: str) -> Settings:
    return load_settings(environment={"HOME": "/nonexistent", "AGGREGATOR_DATA_DIR": str(data_dir)} | environment)


def test_running_servers_fill_in_what_is_not_configured(tmp_path: Path) -> None:
    urls = {"database_url": "postgresql://up/x", "broker_url": "redis://up/0", "cache_url": "redis://up/1", "more": 1}
    (tmp_path / "servers.json").write_text(json.dumps(urls))
    found = with_running_servers(settings(tmp_path, AGGREGATOR_DATABASE_URL="postgresql://own/x"))
    assert require_database_url(found) == "postgresql://own/x"
    assert require_broker_url(found) == "redis://up/0"
    assert require_cache_url(found) == "redis://up/1"


def test_where_nothing_runs_the_error_names_the_variable_and_the_command(tmp_path: Path) -> None:
    found = with_running_servers(settings(tmp_path))
    with pytest.raises(UsageError, match=r"set AGGREGATOR_DATABASE_URL, or start `aggregator up`"):
        require_database_url(found)


def test_a_broken_file_of_running_servers_is_said(tmp_path: Path) -> None:
    (tmp_path / "servers.json").write_text('{"database_url": ')
    with pytest.raises(EnvironmentRefusedError, match="start `aggregator up` again"):
        with_running_servers(settings(tmp_path))
