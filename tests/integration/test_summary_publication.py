"""Summaries in Redis: never backwards, refilled, removed, asked for; and what SQL summaries leave behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import psycopg2
import pytest
import redis
from sqlalchemy import text

from aggregator.client.keys import names_key, summary_key, wanted_key
from aggregator.embedded.process import wait_until
from aggregator.embedded.valkey import EmbeddedValkey
from aggregator.embedded.wheels import valkey_binary
from aggregator.errors import ServerUnreachableError, SummaryNotReadyError, UnknownSummaryError
from aggregator.stages.summarize import Publication
from tests.summarized import COUNTED, DAILY, START, Site, stage_of, summarized
from tests.templates import BroughtUp


@pytest.fixture
def site(brought_up: BroughtUp, cache_url: str, tmp_path: Path) -> Iterator[Site]:
    with summarized(brought_up, cache_url, tmp_path) as made:
        yield made


def test_sql_is_answered_in_the_order_of_its_columns(site: Site) -> None:
    assert site.due() == 2
    found = site.read("daily")
    assert [list(row) for row in found.value] == [["b", "a"]]
    assert (found.tier, found.completeness, found.is_final, found.version) == (None, None, False, 1)
    assert (found.as_of, found.computed_at) == (START, START)
    with redis.Redis.from_url(site.cache_url) as cache:
        key = summary_key("aggregator", "daily")
        assert bytes(cache.get(key) or b"").startswith(b'{"version":1,"name":"daily","value":[{"b":"x","a":')  # type: ignore[arg-type] # not async
        assert 7 * 86_400 - 60 < int(cache.ttl(key)) <= 10 * 86_400  # type: ignore[arg-type] # as above


def test_an_older_version_never_replaces_a_newer_one(site: Site) -> None:
    site.due()
    document = site.read("counted").as_document()
    publication = Publication.at(site.cache_url, namespace="aggregator")
    for version, published in ((7, 7), (6, 7), (10, 10), (9, 10)):
        publication.publish([{"version": version, **{key: document[key] for key in document if key != "version"}}])
        assert site.read("counted").version == published


def test_what_is_no_document_of_ours_is_replaced(site: Site) -> None:
    with redis.Redis.from_url(site.cache_url) as cache:
        cache.set(summary_key("aggregator", "counted"), '{"name": "counted", "version": 99}')
    site.due()
    assert site.read("counted").version == 1


def test_an_emptied_redis_is_refilled_by_the_next_wake_without_a_computation(site: Site) -> None:
    site.due()
    before = {name: site.read(name) for name in ("counted", "daily")}
    with redis.Redis.from_url(site.cache_url) as cache:
        cache.flushdb()
    site.later(1)
    with pytest.raises(SummaryNotReadyError):
        site.read("daily")
    assert site.due() == 0
    assert {name: site.read(name) for name in before} == before


def test_a_redis_that_is_killed_between_two_reads_is_filled_again(site: Site, open_directory: Path) -> None:
    home = open_directory / "killed"
    with EmbeddedValkey(home, binary=valkey_binary()) as server:
        site.cache_url = server.cache_url
        site.stage = stage_of(site.installation, server.cache_url)
        site.due()
        first = site.read("counted")
        assert server.process_id is not None
        os.kill(server.process_id, signal.SIGKILL)
        assert wait_until(lambda: not server.is_alive(), timedelta(seconds=60))
        with pytest.raises(ServerUnreachableError, match="AGGREGATOR_CACHE_URL"):
            site.read("counted")
        site.later()
        site.execute("INSERT INTO public.asked VALUES (now())")
        assert site.due() == 1  # refreshed in PostgreSQL, though nobody can be told
        shutil.rmtree(home / "data")
        server.start()
        with pytest.raises(SummaryNotReadyError):
            site.read("counted")
        assert site.due() == 0
        second = site.read("counted")
        assert (first.value, second.value) == (({"n": 0},), ({"n": 1},))
        assert second.version == first.version + 1
        assert second.error is None


def test_a_removed_summary_disappears_and_a_changed_one_is_computed_at_once(site: Site) -> None:
    site.due()
    site.later(1)
    changed = DAILY.model_copy(update={"sql": "SELECT 2 AS two"})
    site.publish(changed)
    assert site.due() == 1
    assert site.read("daily").value == ({"two": 2},)
    assert site.read("daily").version == 2
    with pytest.raises(UnknownSummaryError):
        site.read("counted")
    site.publish(changed.model_copy(update={"timeout": timedelta(seconds=1)}))
    site.later(1)
    assert site.due() == 0  # the same question
    site.publish(COUNTED, changed)
    assert site.due() == 1
    assert site.read("counted").version == 2


def test_an_answer_to_another_question_is_not_given_while_the_new_one_fails(site: Site) -> None:
    site.due()
    site.publish(COUNTED.model_copy(update={"sql": "SELECT * FROM gone"}), DAILY)
    site.later()
    assert site.due() == 0
    with pytest.raises(SummaryNotReadyError):
        site.read("counted")


def test_a_failed_refresh_says_so_and_a_good_one_takes_it_back(site: Site) -> None:
    site.due()
    site.execute("ALTER TABLE public.asked RENAME TO hidden")
    site.later()
    assert site.due() == 0
    failed = site.read("counted")
    assert (failed.value, failed.version, failed.has_failed) == (({"n": 0},), 2, True)
    assert (failed.computed_at, failed.failed_at) == (START, site.clock())
    assert failed.error == 'the query failed: relation "asked" does not exist'
    site.later()
    site.due()
    assert site.read("counted").version == 2  # nothing new to tell
    site.execute("ALTER TABLE public.hidden RENAME TO asked")
    site.later()
    assert site.due() == 1
    assert (site.read("counted").version, site.read("counted").has_failed) == (3, False)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1; COMMIT; DROP TABLE public.asked",
        "SELECT pg_sleep(1e6)",
        "SELECT generate_series(1, 1000000)",
        "SELECT repeat('x', 2000000)",
    ],
)
def test_a_query_that_is_refused_leaves_the_last_good_value(site: Site, sql: str) -> None:
    site.due()
    # As if it had begun to: another definition would have no value.
    definition = json.dumps({**COUNTED.model_dump(mode="json", exclude_unset=True), "sql": sql, "timeout": "1s"})
    statement = text("UPDATE aggregator.summaries SET definition = cast(:definition AS jsonb) WHERE name = 'counted'")
    with site.installation.database.engine.begin() as connection:
        connection.execute(statement, {"definition": definition})
    site.later()
    assert site.due() == 0
    found = site.read("counted")
    assert (found.value, found.has_failed) == (({"n": 0},), True)
    assert site.execute("SELECT count(*) FROM public.asked")[0][0] == 0


def test_unknown_names_leave_nothing_in_redis(site: Site) -> None:
    site.due()
    for name in ("nope", "a\nb", "x" * 1_000):
        with pytest.raises(UnknownSummaryError):
            site.read(name)
    with redis.Redis.from_url(site.cache_url) as cache:
        assert not cache.exists(wanted_key("aggregator", "nope"))
        assert cache.smembers(names_key("aggregator")) == {b"counted", b"daily"}
        cache.flushdb()
    for name in ("a\nb", "x" * 1_000):
        with pytest.raises(UnknownSummaryError):
            site.read(name)


def test_the_version_before_can_still_write(site: Site) -> None:
    """It binds JSONB, which PostgreSQL casts on assignment."""
    with closing(psycopg2.connect(site.installation.url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("UPDATE aggregator.summaries SET value = '[{\"n\": 1}]'::jsonb WHERE name = 'counted'")
        cursor.execute("SELECT value FROM aggregator.summaries WHERE name = 'counted'")
        assert cursor.fetchone() == ([{"n": 1}],)
