"""`/api/v1/summaries` over real HTTP: from Redis or PostgreSQL, with an ETag, and never a computation."""

from __future__ import annotations

import json
import threading
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import redis
from sqlalchemy import text

from aggregator.client.keys import names_key, summary_key, wanted_key
from aggregator.serving.observer import Addresses
from tests.integration.serving.test_web import CLOSED_PORT, Site, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.serving.conftest import Past

PATH = "/api/v1/summaries/slowest-sources"


@pytest.fixture
def cached_site(installation: Past, cache_url: str) -> Iterator[Site]:
    with serving(Addresses(installation.url, cache_url=cache_url)) as started:
        yield started


def execute(installation: Past, statement: str) -> None:
    installation.database.run(lambda connection: connection.execute(text(statement)) and None)


def test_a_client_that_has_the_newest_document_is_told_so(cached_site: Site) -> None:
    status, headers, body = cached_site.get(PATH)
    assert (status, headers["ETag"], headers["Content-Type"]) == (200, 'W/"3"', "application/json")
    assert 1 <= int(headers["Cache-Control"].removeprefix("max-age=")) <= 30
    assert json.loads(body)["value"] == [{"instance": "t0", "value": 1.5}]
    for tag in ('W/"3"', '"3"', '"x", W/"3"', "*"):
        status, headers, body = cached_site.get(PATH, If_None_Match=tag)
        assert (status, headers["ETag"], body) == (304, 'W/"3"', b"")
        assert headers["Cache-Control"].startswith("max-age=")
    assert cached_site.get(PATH, If_None_Match='W/"2"')[0] == 200
    status, headers, body = cached_site.get(PATH, method="HEAD")
    assert (status, headers["ETag"], body) == (200, 'W/"3"', b"")


def test_the_etag_changes_when_the_value_goes_stale(cached_site: Site, installation: Past) -> None:
    execute(installation, "UPDATE aggregator.summaries SET computed_at = computed_at - interval '1 hour'")
    status, headers, body = cached_site.get(PATH, If_None_Match='W/"3"')
    assert (status, headers["ETag"], headers["Cache-Control"]) == (200, 'W/"3-stale"', "max-age=1")
    assert json.loads(body)["stale"] is True
    failed = (
        "UPDATE aggregator.summaries SET computed_at = now(), last_error = 'why', last_error_at = now(), version = 4"
    )
    execute(installation, failed)
    document = cached_site.json(PATH)
    assert (document["stale"], document["error"], document["version"]) == (True, "why", 4)


def test_all_summaries_are_listed_without_their_values(cached_site: Site) -> None:
    found = cached_site.json("/api/v1/summaries")
    assert [one["name"] for one in found] == ["cpu-busy-by-host", "fullest-file-systems", "slowest-sources"]
    assert all("value" not in one and one["stale"] is False for one in found)


def test_a_name_that_nobody_configured_is_not_found(cached_site: Site, cache_url: str) -> None:
    for path in ("none", "a%0Ab", "%2e%2e/x", "x" * 200):
        status, _, body = cached_site.get(f"/api/v1/summaries/{path}")
        assert (status, list(json.loads(body))) == (404, ["error"])
    with redis.Redis.from_url(cache_url) as cache:
        cache.sadd(names_key("aggregator"), "slowest-sources")
        cached_site.get("/api/v1/summaries/none2")
        assert not cache.exists(wanted_key("aggregator", "none2"))


def test_a_summary_that_has_no_value_is_asked_for_and_announced(
    cached_site: Site, installation: Past, cache_url: str
) -> None:
    execute(installation, "UPDATE aggregator.summaries SET computed_at = NULL WHERE name = 'slowest-sources'")
    answers: list[tuple[int, str | None]] = []

    def reader() -> None:
        status, headers, _ = cached_site.get(PATH)
        answers.append((status, headers["Retry-After"]))

    threads = [threading.Thread(target=reader) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [(503, "10")] * 20
    with redis.Redis.from_url(cache_url) as cache:
        assert cache.exists(wanted_key("aggregator", "slowest-sources"))
        assert cache.keys("*") == [wanted_key("aggregator", "slowest-sources").encode()]


def test_without_the_database_summaries_come_from_redis(cache_url: str, now: datetime) -> None:
    document = {
        "version": 5,
        "name": "slowest-sources",
        "value": [{"a": 1}],
        "as_of": now.isoformat(),
        "computed_at": (now - timedelta(seconds=10)).isoformat(),
        "tier": None,
        "completeness": None,
        "is_final": False,
        "refresh_seconds": 30,
    }
    with redis.Redis.from_url(cache_url) as cache:
        cache.set(summary_key("aggregator", "slowest-sources"), json.dumps(document))
        cache.sadd(names_key("aggregator"), "slowest-sources", "cold")
    with serving(Addresses(f"postgresql://u@127.0.0.1:{CLOSED_PORT}/d", cache_url=cache_url)) as site:
        assert site.json(PATH)["value"] == [{"a": 1}]
        assert site.get("/api/v1/summaries/cold")[0] == 503
        assert site.get("/api/v1/summaries/none")[0] == 404
        status, headers, _ = site.get("/api/v1/summaries")
        assert (status, headers["Retry-After"]) == (503, "10")


def test_the_page_shows_trends_and_the_reason_of_a_failure(cached_site: Site, installation: Past) -> None:
    trend = '[["2026-03-01T00:00:00+00:00", 1], ["2026-03-01T00:01:00+00:00", null], ["2026-03-01T00:02:00+00:00", 2]]'
    statement = """
        UPDATE aggregator.summaries SET value = '[{"instance": "t0", "trend": TREND}]', last_error = '<b>why</b>'
        WHERE name = 'slowest-sources'
    """.replace("TREND", trend)
    execute(installation, statement.replace(":", "\\:"))
    page = cached_site.get("/")[2].decode()
    assert "▁ █" in page
    assert "The last refresh failed: &lt;b&gt;why" in page
