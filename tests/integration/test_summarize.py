"""Summaries: computed from rollups, kept in PostgreSQL, published to Redis, and never lost to a failure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis
from sqlalchemy import text

from aggregator.client import read
from aggregator.config.model import Summary
from aggregator.errors import UsageError
from aggregator.exposition.series import Kind
from aggregator.rollups.buckets import milliseconds
from aggregator.stages.summarize import Publication, Summarize
from aggregator.storage.engine import Connection
from aggregator.storage.publish_summaries import publish_summaries
from tests.installation import Installation, series_key, settings_for
from tests.templates import BroughtUp, installed

START = datetime(2026, 3, 1, 11, 50, tzinfo=UTC)

BUSY = Summary(name="busy", select="c_total", stat="rate", by=("instance",), window=timedelta(minutes=10), top=1)
MEAN = Summary(name="mean", select='g{job="scripted"}', stat="avg", window=timedelta(minutes=10))
RATIO = Summary(
    name="ratio",
    select="g",
    divide_by="whole",
    stat="last",
    by=("instance",),
    window=timedelta(minutes=10),
    order="lowest",
)


@pytest.fixture
def installation(brought_up: BroughtUp, tmp_path: Path) -> Iterator[Installation]:
    settings = settings_for(tmp_path).model_copy(update={"summaries": (BUSY, MEAN, RATIO)})
    with installed(brought_up, START, settings) as made:
        fill(made)
        yield made


def fill(made: Installation) -> None:
    """Five minutes of three metrics of two targets."""
    for place, target in enumerate(made.targets(2)):
        for minute in range(5):
            at = START + timedelta(minutes=minute)
            made.now = at
            values = {
                series_key("c_total", place, Kind.COUNTER): 60.0 * minute * (place + 1),
                series_key("g", place, Kind.GAUGE): float(minute + place),
                series_key("whole", place, Kind.GAUGE): 8.0,
            }
            made.collect(target, {milliseconds(at): values})
    made.now = START + timedelta(minutes=6)
    made.roll_up()


def summarize(installation: Installation, cache_url: str) -> Summarize:
    publication = Publication.at(cache_url, namespace="aggregator")
    return Summarize(installation.database, publication, "test", own_url=installation.url)


def do_due(stage: Summarize, installation: Installation) -> int:
    """What a wake and the messages that it sends do; gives how many summaries were refreshed."""
    clock = lambda: installation.now  # noqa: E731 - shorter than a function
    return sum(stage.refresh(due.name, slot=due.slot, clock=clock) for due in stage.wake(clock=clock))


def test_rates_are_summed_by_group_averages_are_weighted_and_ratios_join_on_the_same_labels(
    installation: Installation, cache_url: str
) -> None:
    assert summarize(installation, cache_url).run(clock=lambda: installation.now) == 3
    assert read("busy", url=cache_url).value == ({"instance": "t1", "value": pytest.approx(2.0)},)
    assert read("mean", url=cache_url).value == ({"value": pytest.approx(2.5)},)
    assert read("ratio", url=cache_url).value == (
        {"instance": "t0", "value": pytest.approx(4 / 8)},
        {"instance": "t1", "value": pytest.approx(5 / 8)},
    )


def test_the_document_in_redis_says_how_far_it_can_be_trusted(installation: Installation, cache_url: str) -> None:
    stage = summarize(installation, cache_url)
    stage.run(clock=lambda: installation.now, only="busy")
    client = redis.Redis.from_url(cache_url)
    document = json.loads(client.get("aggregator:summary:busy") or b"{}")
    client.close()
    assert document["tier"] == "1m"
    assert document["as_of"] == (START + timedelta(minutes=4)).isoformat()
    assert document["completeness"] == pytest.approx(1 / 4)  # a sample a minute, where four are due
    assert document["is_final"] is True
    assert document["version"] == 1


def test_an_answer_without_rows_is_not_final(installation: Installation, cache_url: str) -> None:
    installation.now += timedelta(days=3)
    summarize(installation, cache_url).run(clock=lambda: installation.now, only="busy")
    found = read("busy", url=cache_url)
    assert (found.value, found.completeness, found.is_final) == ((), None, False)


def test_a_slot_is_refreshed_once_however_many_ask(installation: Installation, cache_url: str) -> None:
    stage = summarize(installation, cache_url)
    assert do_due(stage, installation) == 3
    assert do_due(stage, installation) == 0
    installation.now += timedelta(seconds=30)
    assert do_due(stage, installation) == 3


def test_a_failed_refresh_keeps_the_last_good_value_and_says_why(installation: Installation, cache_url: str) -> None:
    stage = summarize(installation, cache_url)
    stage.run(clock=lambda: installation.now)
    before = read("busy", url=cache_url)

    def break_view(connection: Connection) -> None:
        connection.execute(text("ALTER VIEW aggregator.metric_rollups RENAME TO gone"))

    installation.database.run(break_view)
    assert stage.run(clock=lambda: installation.now) == 0
    after = read("busy", url=cache_url)
    assert (after.value, after.computed_at) == (before.value, before.computed_at)
    assert not before.is_stale(now=installation.now)
    assert after.is_stale(now=installation.now)
    assert after.error is not None
    assert "metric_rollups" in after.error
    assert after.failed_at == installation.now
    assert after.version == before.version + 1
    with installation.database.engine.connect() as connection:
        rows = connection.execute(text("SELECT value, last_error FROM aggregator.summaries WHERE name = 'busy'")).one()
    assert rows.value == [{"instance": "t1", "value": pytest.approx(2.0)}]
    assert rows.last_error == after.error


def test_an_unknown_summary_is_named_with_those_that_exist(installation: Installation, cache_url: str) -> None:
    with pytest.raises(UsageError, match="busy, mean, ratio"):
        summarize(installation, cache_url).run(clock=lambda: installation.now, only="nope")


def test_a_rate_counts_the_time_in_which_nothing_happened(installation: Installation, cache_url: str) -> None:
    target = installation.targets(1)[0]
    key = series_key("idle_total", 0, Kind.COUNTER)
    for minute, value in enumerate((0.0, 60.0, 60.0, 60.0, 60.0)):
        installation.collect(target, {milliseconds(START + timedelta(minutes=minute)): {key: value}})
    installation.roll_up()
    asked = Summary(name="busy", select="idle_total", stat="rate", window=timedelta(minutes=10))
    assert answered(installation, asked, cache_url) == ({"value": pytest.approx(60 / 240)},)


@pytest.mark.parametrize("stat", ["avg", "sum", "last", "max"])
def test_sums_beyond_all_doubles_are_null_and_no_error(installation: Installation, cache_url: str, stat: str) -> None:
    for place, target in enumerate(installation.targets(2)):
        key = series_key("huge", place, Kind.GAUGE)
        for minute in range(2):
            installation.collect(target, {milliseconds(START + timedelta(minutes=minute)): {key: 1e308}})
    installation.roll_up()
    asked = Summary.model_validate(
        {"name": "busy", "select": "huge", "stat": stat, "window": timedelta(minutes=10), "compare": True, "trend": 5}
    )
    (row,) = answered(installation, asked, cache_url)
    assert row["value"] == (1e308 if stat == "max" else None)
    assert row["before"] is None


def answered(installation: Installation, summary: Summary, cache_url: str) -> tuple[dict[str, object], ...]:
    """What a summary that replaces the others gives."""
    installation.database.run(lambda connection: publish_summaries(connection, [summary], now=installation.now))
    assert summarize(installation, cache_url).run(clock=lambda: installation.now) == 1
    return read(summary.name, url=cache_url).value
