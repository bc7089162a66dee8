"""A tier that was added when there was data already, and a recomputation that gives it the past."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, select, text, update

from aggregator.config.model import Tier
from aggregator.config.selector import parse_selector
from aggregator.exposition.series import Kind
from aggregator.rollups.buckets import milliseconds
from aggregator.storage import publish, recompute, tables
from aggregator.tasks.recomputation import Done, Recomputation
from tests.installation import Installation, series_key

START = datetime(2026, 3, 1, 10, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
LATER = START + 2 * timedelta(days=1)
EVERY = '{__name__=~".+"}'


def fill_and_add_tiers(installation: Installation) -> None:
    """Three hours of a counter and a gauge, and two days later tiers of 10m and 30m."""
    (target,) = installation.targets(1)
    keys = (series_key("c_total", 0, Kind.COUNTER), series_key("g", 0, Kind.GAUGE))
    installation.now = START + 3 * HOUR
    seconds = range(0, 3 * 3_600, 30)
    installation.collect(target, {milliseconds(START) + 1_000 * at: dict.fromkeys(keys, float(at)) for at in seconds})
    installation.now = LATER
    installation.roll_up()
    added = [Tier(name=f"{step}m", step=step * MINUTE, retention=timedelta(days=90)) for step in (10, 30)]
    settings = installation.settings.model_copy(update={"tiers": (*installation.settings.tiers, *added)})
    own = update(tables.sources).where(tables.sources.c.id == installation.source_id).values(active=True)

    def work(connection: Connection) -> None:
        publish.publish(connection, settings, config_hash="added", now=installation.now)
        connection.execute(own)

    installation.database.run(work)


def recompute_from(installation: Installation, since: datetime, selector: str = EVERY, *, until: datetime) -> Done:
    request, scope = installation.database.run(
        lambda connection: (
            recompute.begin(connection, selector, since=since, until=until, now=installation.now),
            recompute.scope_of(connection, parse_selector(selector)),
        )
    )
    made = Recomputation(installation.database, installation.rollup, lambda: installation.now)
    return made.run(request, scope, report=lambda _: None)


def complete_since(installation: Installation) -> dict[str, datetime]:
    statement = select(tables.tiers.c.name, tables.tiers.c.complete_since).where(
        tables.tiers.c.complete_since.is_not(None)
    )
    return dict(installation.database.run(lambda connection: connection.execute(statement).all()))


def tiers_read(installation: Installation, minutes: int, since: datetime) -> set[object]:
    """The tiers that `metric_range` reads."""
    statement = text("SELECT tier FROM aggregator.metric_range('g', :since, :until, :interval_ms)")
    where = {"since": since, "until": START + 3 * HOUR, "interval_ms": minutes * 60_000}
    return set(installation.database.run(lambda connection: connection.execute(statement, where).scalars().all()))


def test_a_tier_that_a_recomputation_of_every_series_has_filled_is_read_from_where_that_began(
    installation: Installation,
) -> None:
    fill_and_add_tiers(installation)
    assert complete_since(installation) == {"10m": LATER, "30m": LATER}
    assert tiers_read(installation, 10, START) == {"5m"}
    installation.now += HOUR
    done = recompute_from(installation, START + 13 * MINUTE, until=installation.now)
    assert done.completed == ("10m", "30m")
    assert complete_since(installation) == {"10m": START + 10 * MINUTE, "30m": START + 30 * MINUTE}
    assert tiers_read(installation, 10, START + 10 * MINUTE) == {"10m"}
    assert tiers_read(installation, 30, START + 30 * MINUTE) == {"30m"}
    assert tiers_read(installation, 10, START) == {"5m"}
    sums = [row["increase"] for row in installation.rows("metrics_10m").values() if row["increase"] is not None]
    assert sums == [600.0] * 17


def test_one_that_leaves_out_series_or_time_completes_nothing(installation: Installation) -> None:
    fill_and_add_tiers(installation)
    installation.now += HOUR
    assert recompute_from(installation, START, "g", until=installation.now).completed == ()
    assert recompute_from(installation, START, until=LATER - HOUR).completed == ()
    assert complete_since(installation) == {"10m": LATER, "30m": LATER}


def test_where_finer_rollups_are_gone_a_tier_is_complete_from_what_is_left(installation: Installation) -> None:
    fill_and_add_tiers(installation)
    gone = text(
        "INSERT INTO aggregator.retained (table_name, tier_id, dropped_before)"
        " SELECT 'rollup', id, :bound FROM aggregator.tiers WHERE name = '5m'"
    )
    bound = START + 75 * MINUTE
    installation.database.run(lambda connection: connection.execute(gone, {"bound": bound}))
    installation.now += HOUR
    assert recompute_from(installation, START, until=installation.now).completed == ("10m", "30m")
    assert complete_since(installation) == {"10m": START + 80 * MINUTE, "30m": START + 90 * MINUTE}
