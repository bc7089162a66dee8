"""Slots of summaries: one computation however many ask, left where the database is not known, never side by side."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from aggregator.config.model import Summary
from aggregator.errors import SummaryNotReadyError
from aggregator.stages.summarize import Summarize
from aggregator.storage.summaries import Published, published_summaries
from tests.sessions import session
from tests.summarized import COUNTED, DAILY, Site, stage_of, summarized
from tests.templates import BroughtUp

READERS = 100


@pytest.fixture
def site(brought_up: BroughtUp, cache_url: str, tmp_path: Path) -> Iterator[Site]:
    with summarized(brought_up, cache_url, tmp_path) as made:
        yield made


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
