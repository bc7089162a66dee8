"""Somebody writes to the database: what nodes do then that trust it, and those that trust only their own file."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from aggregator.cli.app import run
from aggregator.config.load import load_settings
from aggregator.errors import CollectionFailedError, UnknownSourceError
from aggregator.storage import tables
from aggregator.storage.bootstrap import bring_up
from aggregator.tasks.by_hand import be_known, collect_by_hand
from aggregator.tasks.context import Context
from tests.tls_server import Asking, asking_server

CONFIGURATION = """
[[sources]]
name = "web"
kind = "prometheus"
targets = ["http://localhost:{port}/metrics"]
bearer_token_file = "token"

[[sources]]
name = "listing"
kind = "command"
command = ["echo", "here"]
"""


def node(tmp_path: Path, url: str, port: int, **variables: str) -> Context:
    """A node with a file and its own token."""
    (tmp_path / "token").write_text("the-token-of-this-node")
    (tmp_path / "aggregator.toml").write_text(CONFIGURATION.format(port=port))
    environment = {"HOME": str(tmp_path), "AGGREGATOR_NODE": "test", "AGGREGATOR_DATABASE_URL": url, **variables}
    settings = load_settings(tmp_path / "aggregator.toml", environment=environment)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    bring_up(url, settings, now=datetime.now(UTC))
    made = Context(settings)
    be_known(made)
    return made


def rewrite(here: Context, source: str, **changes: Any) -> None:
    """Change a definition as whoever can write to the database may."""
    table = tables.sources

    def work(connection: Any) -> None:
        row = connection.execute(table.select().where(table.c.name == source)).one()
        definition = json.loads(json.dumps(row.definition)) | changes
        connection.execute(update(table).where(table.c.name == source).values(definition=definition))

    here.database.run(work)


@pytest.mark.parametrize(("choice", "is_read"), [("published", True), ("local", False)])
def test_a_node_reads_only_the_files_that_it_may(
    database_url: str,
    tmp_path: Path,
    choice: str,
    is_read: bool,  # noqa: FBT001 - a table of cases
) -> None:
    other = tmp_path / "other"
    other.write_text("what-nobody-else-should-have")
    with asking_server() as port:
        here = node(tmp_path, database_url, port, AGGREGATOR_READ_FILES=choice)
        collect_by_hand(here, "web")
        assert Asking.seen == ["Bearer the-token-of-this-node"]
        rewrite(here, "web", bearer_token_file=str(other))
        if is_read:
            collect_by_hand(here, "web")
            assert Asking.seen[1:] == ["Bearer what-nobody-else-should-have"]
        else:
            with pytest.raises(CollectionFailedError, match="read_files"):
                collect_by_hand(here, "web")
            # Neither does its own token go to another place.
            rewrite(here, "web", bearer_token_file=str(tmp_path / "token"), targets=[f"http://127.0.0.1:{port}/x"])
            with pytest.raises(CollectionFailedError, match="read_files"):
                collect_by_hand(here, "web")
            assert Asking.seen[1:] == []
        here.database.dispose()


@pytest.mark.parametrize(
    ("choice", "runs_own", "runs_others"),
    [("published", True, True), ("local", True, False), ("never", False, False)],
)
def test_a_node_runs_only_the_commands_that_it_may(
    database_url: str,
    tmp_path: Path,
    choice: str,
    runs_own: bool,  # noqa: FBT001 - as above
    runs_others: bool,  # noqa: FBT001 - as above
) -> None:
    mark = tmp_path / "was-run"
    here = node(tmp_path, database_url, 1, AGGREGATOR_RUN_COMMANDS=choice)
    if runs_own:
        (report,) = collect_by_hand(here, "listing")
        assert report["output"] == "here\n"
    else:
        with pytest.raises(UnknownSourceError, match="run_commands"):
            collect_by_hand(here, "listing")
    rewrite(here, "listing", command=["touch", str(mark)])
    if runs_others:
        collect_by_hand(here, "listing")
    else:
        with pytest.raises(UnknownSourceError, match="run_commands"):
            collect_by_hand(here, "listing")
    assert mark.exists() == runs_others
    here.database.dispose()


def test_a_dry_run_shows_no_credentials_of_an_address(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = node(tmp_path, database_url, 1).settings
    path = tmp_path / "aggregator.toml"
    path.write_text(CONFIGURATION.format(port=1).replace("://localhost", "://me:hidden@localhost"))
    bring_up(
        database_url,
        load_settings(path, environment={"HOME": str(tmp_path), "AGGREGATOR_NODE": settings.node}),
        now=datetime.now(UTC),
    )
    monkeypatch.setenv("AGGREGATOR_DATABASE_URL", database_url)
    monkeypatch.setenv("AGGREGATOR_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    assert run(["--config", str(path), "collect", "web", "--dry-run"]) == 1
    said = capsys.readouterr()
    assert "nothing listens" in said.err
    assert "hidden" not in said.out + said.err
