"""What docs/summaries.md shows, run as it stands there."""

from __future__ import annotations

import re
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import psycopg2
import pytest

from aggregator.config.load import load_settings
from aggregator.errors import QueryRefusedError
from aggregator.storage.asked_database import Limits, ask

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "summaries.md").read_text()


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)
    return str(found)


def test_the_configuration_is_right(tmp_path: Path) -> None:
    (tmp_path / "shop-url").write_text("postgresql://reads@shop/shop\n")
    path = tmp_path / "aggregator.toml"
    path.write_text(block("toml").replace("/run/secrets/shop-url", "shop-url"))
    settings = load_settings(path, environment={"HOME": str(tmp_path)})
    assert [summary.name for summary in settings.summaries] == ["busiest-hosts", "top-customers"]
    assert [known.name for known in settings.databases] == ["shop"]


def test_the_role_can_read_what_it_was_given_and_nothing_else(empty_database_url: str) -> None:
    statements = block("sql").replace("'...'", "'secret'")
    limits = Limits(timedelta(seconds=20), 10, 1_000)
    with closing(psycopg2.connect(empty_database_url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute("CREATE TABLE orders (total int); INSERT INTO orders VALUES (3); CREATE TABLE secrets (key int)")
        try:
            cursor.execute(statements)
            server = urlsplit(empty_database_url)
            url = server._replace(netloc=f"aggregator_reads:secret@{server.netloc.rpartition('@')[2]}").geturl()
            assert ask(url, "SELECT total FROM orders", limits=limits, application="test").rows == [(3,)]
            with pytest.raises(QueryRefusedError, match="permission denied"):
                ask(url, "SELECT * FROM secrets", limits=limits, application="test")
        finally:
            cursor.execute("DROP TABLE orders, secrets; REVOKE USAGE ON SCHEMA public FROM aggregator_reads")
            cursor.execute("DROP ROLE aggregator_reads")


def test_every_field_of_a_document_is_described() -> None:
    fields = {
        name
        for line in re.findall(r"^\| (`.*?`) \| .*\|$", DOCUMENT, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", line)
    }
    assert {
        *("version", "name", "value", "as_of", "computed_at", "tier", "completeness", "is_final", "refresh_seconds"),
        *("stale", "error", "failed_at"),
    } <= fields
