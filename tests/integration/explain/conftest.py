"""The past that is explained, to be read or copied, and the command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest

from aggregator.cli.app import run
from aggregator.embedded.postgres import EmbeddedPostgres
from aggregator.storage.engine import Database
from tests.databases import create_database, database_of, drop_database
from tests.explained import MINUTE, START, Typed, make_past
from tests.installation import Installation, settings_for
from tests.sessions import session

TEMPLATE = "explained_template"


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    """Run `explain` in this process on the database at a URL; gives exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))

    def call(url: str, selector: str, at: datetime, tier: str, *options: str) -> tuple[int, str, str]:
        monkeypatch.setenv("AGGREGATOR_DATABASE_URL", url)
        capsys.readouterr()  # what was logged before is no output of the command
        code = run(["explain", selector, "--at", at.isoformat(), "--tier", tier, *options])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


@pytest.fixture(scope="package")
def past(
    postgres_server: EmbeddedPostgres, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The URL of a database with that past, to be read or copied."""
    url = create_database(postgres_server, TEMPLATE, template=migrated_template)
    with closing(Installation(url, START - MINUTE, settings_for(tmp_path_factory.mktemp("explained")))) as made:
        make_past(made)
    yield url
    drop_database(postgres_server, TEMPLATE)


@pytest.fixture
def copy(past: str, postgres_server: EmbeddedPostgres) -> Iterator[Database]:
    """A copy of it that a test may change."""
    assert past == database_of(postgres_server, TEMPLATE)
    with session(create_database(postgres_server, "explained_copy", template=TEMPLATE)) as made:
        yield made
    drop_database(postgres_server, "explained_copy")
