"""Summaries in Redis: never backwards, refilled, removed, asked for; and what SQL summaries leave behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import redis
from sqlalchemy import text

from aggregator import client
from aggregator.client import read
from aggregator.client.keys import names_key, summary_key, wanted_key
from aggregator.config.model import Summary
from aggregator.embedded.process import wait_until
from aggregator.embedded.valkey import EmbeddedValkey
from aggregator.embedded.wheels import valkey_binary
from aggregator.errors import ServerUnreachableError, SummaryNotReadyError, UnknownSummaryError
from aggregator.stages.summarize import Publication, Summarize
from aggregator.storage.engine import Database
from aggregator.storage.publish_summaries import publish_summaries
from aggregator.storage.summaries import Published, published_summaries
from tests.installation import Installation, settings_for
from tests.sessions import session

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
COUNTED = Summary(name="counted", sql="SELECT count(*) AS n FROM asked", refresh=timedelta(seconds=30))
DAILY = Summary(name="daily", sql="SELECT 'x' AS b, now() AS a", refresh=timedelta(days=1))
READERS = 100


@dataclass
class Site:
    """An installation with two summaries in SQL on its own database."""

    installation: Installation
    stage: Summarize
    cache_url: str

    def due(self) -> int:
        """What a wake and the messages that it sends do; gives how many summaries were refreshed."""
        slots = self.stage.wake(clock=self.clock)
        return sum(self.stage.refresh(due.name, slot=due.slot, clock=self.clock) for due in slots)

    def clock(self) -> datetime:
        return self.installation.now

    def later(self, seconds: float = 30) -> None:
        self.installation.now += timedelta(seconds=seconds)

    def read(self, name: str) -> client.Summary:
        return read(name, url=self.cache_url)

    def execute(self, statement: str) -> list[Any]:
        with self.installation.database.engine.begin() as connection:
            found = connection.execute(text(statement))
            return list(found.all()) if found.returns_rows else []

    def publish(self, *summaries: Summary) -> None:
        self.installation.database.run(
            lambda connection: publish_summaries(connection, summaries, now=self.installation.now)
        )


@pytest.fixture
def site(database_url: str, cache_url: str, tmp_path: Path) -> Iterator[Site]:
    settings = settings_for(tmp_path).model_copy(update={"summaries": (COUNTED, DAILY)})
    with closing(Installation(database_url, START, settings)) as installation:
        made = Site(installation, stage_of(installation, cache_url), cache_url)
        made.execute("CREATE TABLE public.asked (at timestamptz)")
        yield made


def stage_of(
    installation: Installation, cache_url: str, database: Database | None = None, **databases: str
) -> Summarize:
    publication = Publication.at(cache_url, namespace="aggregator")
    own = database or installation.database
    return Summarize(own, publication, "test", own_url=installation.url, databases=databases)


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
        assert wait_until(lambda: not server.is_alive(), timedelta(seconds=10))
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


def test_a_hundred_readers_of_a_cold_summary_cause_one_computation(site: Site) -> None:
    slow = "SELECT n, pg_sleep(0.2)::text AS slept FROM (SELECT count(*) AS n FROM public.asked) AS one"
    site.due()
    site.publish(DAILY.model_copy(update={"sql": slow}), COUNTED)
    site.execute("UPDATE aggregator.summaries SET asked_at = NULL")  # as if the attempt at once had been lost
    site.later(1)
    site.stage.wake(clock=site.clock)
    errors: list[type[Exception]] = []

    def reader() -> None:
        try:
            site.read("daily")
        except SummaryNotReadyError as error:
            errors.append(type(error))

    def together(*targets: Any) -> None:
        threads = [threading.Thread(target=target) for target in targets]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    before = site.execute("SELECT count(*) FROM aggregator.runs WHERE subject = 'daily'")[0][0]
    together(*[reader] * READERS)
    assert errors == [SummaryNotReadyError] * READERS
    site.later(1)
    # Two workers read the wake while the readers go on.
    with session(site.installation.url) as other:
        stages = (site.stage, stage_of(site.installation, site.cache_url, other))
        for _ in range(3):
            together(*[reader] * 10, *(partial(wake_and_refresh, site, stage) for stage in stages))
            site.later(1)
    assert site.read("daily").value == ({"n": 0, "slept": ""},)
    after = site.execute("SELECT count(*) FROM aggregator.runs WHERE subject = 'daily'")[0][0]
    assert after - before == 1


def wake_and_refresh(site: Site, stage: Summarize) -> None:
    for due in stage.wake(clock=site.clock):
        stage.refresh(due.name, slot=due.slot, clock=site.clock)


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


def test_a_node_that_lacks_the_database_leaves_the_slot_and_says_so_when_nobody_takes_it(
    site: Site, empty_database_url: str
) -> None:
    shop = Summary(name="shop", sql="SELECT current_database()::text AS db", database="shop")
    site.publish(shop)
    knowing = stage_of(site.installation, site.cache_url, shop=empty_database_url)
    lacking = site.stage
    (due,) = lacking.wake(clock=site.clock)
    assert not lacking.refresh("shop", slot=due.slot, clock=site.clock)
    assert site.execute("SELECT last_error FROM aggregator.summaries WHERE name = 'shop'")[0][0] == (
        "this node knows no database shop; give its workers [databases.shop], or AGGREGATOR_DATABASES_SHOP_URL"
    )
    assert knowing.refresh("shop", slot=due.slot, clock=site.clock)
    found = site.read("shop")
    assert (found.value[0]["db"], found.error) == (empty_database_url.rpartition("/")[2].partition("?")[0], None)
    site.later()
    (due,) = lacking.wake(clock=site.clock)
    assert not lacking.refresh("shop", slot=due.slot, clock=site.clock)
    assert site.read("shop").error is None  # another may still do it
    assert knowing.refresh("shop", slot=due.slot, clock=site.clock)
    site.later(120)
    assert site.due() == 0
    assert site.read("shop").has_failed
    published = site.execute("SELECT definition::text FROM aggregator.summaries WHERE name = 'shop'")[0][0]
    assert "postgresql" not in published


def test_a_summary_whose_definition_cannot_be_read_stops_no_other(site: Site) -> None:
    site.execute("""UPDATE aggregator.summaries SET definition = '{"name": "daily", "new": 1}' WHERE name = 'daily'""")
    assert site.due() == 1
    assert site.read("counted").value == ({"n": 0},)


def test_a_slow_query_is_not_run_twice_at_a_time(site: Site) -> None:
    site.due()
    site.later()
    (due,) = site.stage.wake(clock=site.clock)
    claimed = site.stage._claim(published(site, "counted"), slot=due.slot, now=site.clock())
    assert claimed is not None
    site.later()
    assert site.stage.wake(clock=site.clock) == []
    assert site.stage._claim(published(site, "counted"), slot=site.clock(), now=site.clock()) is None
    site.later(120)  # past the lease: its worker is gone
    assert site.due() == 1


def published(site: Site, name: str) -> Published:
    return next(one for one in site.installation.database.run(published_summaries) if one.name == name)


def test_the_version_before_can_still_write(site: Site) -> None:
    """It binds JSONB, which PostgreSQL casts on assignment."""
    with closing(psycopg2.connect(site.installation.url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("UPDATE aggregator.summaries SET value = '[{\"n\": 1}]'::jsonb WHERE name = 'counted'")
        cursor.execute("SELECT value FROM aggregator.summaries WHERE name = 'counted'")
        assert cursor.fetchone() == ([{"n": 1}],)
