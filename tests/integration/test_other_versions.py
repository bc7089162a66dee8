"""Code of one version on the schema of another: a later one is gone on with and left alone, an earlier one refused."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from aggregator.config.digest import config_hash
from aggregator.errors import SchemaOutdatedError
from aggregator.storage.announce import announce
from aggregator.storage.bootstrap import bring_up
from aggregator.storage.migrate import head_revision, upgrade
from aggregator.storage.schema import packaged_head, schema_fault
from aggregator.tasks.context import Context
from tests.installation import Installation, settings_for

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER, EARLIER = "29991231_0001", "20200101_0001"
#: What a later version would have made of a view.
LATER_VIEW = "CREATE OR REPLACE VIEW aggregator.tiers_kept AS SELECT *, 1 AS of_later FROM ({}) AS v"


def set_revision(installation: Installation, revision: str) -> None:
    statement = text("UPDATE aggregator.alembic_version SET version_num = :revision")
    installation.database.run(lambda connection: connection.execute(statement, {"revision": revision}))


@pytest.fixture
def later(installation: Installation) -> Installation:
    """A database that a later version has migrated, and given another view."""

    def change(connection: object) -> None:
        run = connection.execute  # type: ignore[attr-defined] # a SQLAlchemy connection
        shown = run(text("SELECT pg_get_viewdef('aggregator.tiers_kept'::regclass)")).scalar_one().rstrip().rstrip(";")
        run(text(LATER_VIEW.format(shown)))

    installation.database.run(change)
    set_revision(installation, LATER)
    return installation


def has_later_view(installation: Installation) -> bool:
    with installation.database.engine.connect() as connection:
        columns = connection.execute(text("SELECT * FROM aggregator.tiers_kept LIMIT 0")).keys()
    return "of_later" in columns


def published(installation: Installation) -> str:
    with installation.database.engine.connect() as connection:
        return str(connection.execute(text("SELECT config_hash FROM aggregator.installation")).scalar_one())


def test_the_heads_of_both_readings_of_the_migrations_agree() -> None:
    assert packaged_head() == head_revision()


def test_a_later_schema_is_gone_on_with(later: Installation) -> None:
    assert later.database.run(schema_fault) is None
    context = Context(later.settings.model_copy(update={"database_url": SecretStr(later.url)}))
    assert context.database.run(schema_fault) is None
    context.database.dispose()


def test_a_migration_to_an_earlier_version_leaves_a_later_schema_and_its_views_alone(
    later: Installation, tmp_path: Path
) -> None:
    upgrade(later.url)
    assert not bring_up(later.url, settings_for(tmp_path, AGGREGATOR_LATENESS="7m"), now=START)
    assert has_later_view(later)


def test_a_node_of_an_earlier_version_announces_itself_and_publishes_nothing(
    later: Installation, tmp_path: Path
) -> None:
    before = published(later)
    file = tmp_path / "aggregator.toml"
    file.write_text('lateness = "7m"\n')
    settings = settings_for(tmp_path, AGGREGATOR_CONFIG=str(file))
    assert config_hash(settings) != before
    announce(later.database, settings, config_hash=config_hash(settings), started_at=START, now=START)
    assert published(later) == before
    assert has_later_view(later)
    # On its own version's schema the same node does.
    set_revision(later, packaged_head())
    later.database.run(lambda connection: connection.execute(text("DROP VIEW aggregator.tiers_kept CASCADE")))
    started_at = START.replace(hour=13)
    announce(later.database, settings, config_hash=config_hash(settings), started_at=started_at, now=started_at)
    assert published(later) == config_hash(settings)


def test_no_task_touches_an_earlier_schema_and_the_next_one_looks_again(installation: Installation) -> None:
    set_revision(installation, EARLIER)
    context = Context(installation.settings.model_copy(update={"database_url": SecretStr(installation.url)}))
    for _ in range(2):
        with pytest.raises(SchemaOutdatedError, match=f"is at {EARLIER} .* run `aggregator db migrate`"):
            _ = context.database
    set_revision(installation, packaged_head())
    assert context.database.run(schema_fault) is None
    context.database.dispose()
