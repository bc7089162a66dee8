"""What is measured of a database, beside a count of everything in it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import Connection, insert, text

from aggregator.config.model import Tier
from aggregator.exposition.series import Kind, SeriesKey
from aggregator.rollups.buckets import milliseconds
from aggregator.stages.maintain import Maintain
from aggregator.storage import partitions, sampled_pages, tables
from aggregator.storage.costs import layers_of
from aggregator.storage.measured_bytes import Measured, Stored, measure
from aggregator.storage.partitions import SEALED_SAMPLES
from aggregator.storage.plan import make_plan
from tests.installation import Installation, series_key

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
LAYERS = ("samples", "1m", "5m", "1h", "1d")
#: Counted on some pages: all are alike here, but for the last one of each partition.
NEAR = 0.1


def fill(installation: Installation, *, minutes: int, series: int, targets: int = 1) -> None:
    """Random walks, a sample every 15 s, in two kinds."""
    generator = np.random.default_rng(1)
    kinds = (Kind.GAUGE, Kind.COUNTER)
    installation.now = START + timedelta(minutes=minutes)
    for number, target in enumerate(installation.targets(targets)):
        keys = [series_key(f"metric_{place:04}", number, kinds[place % 2]) for place in range(series)]
        samples: dict[int, dict[SeriesKey, float]] = {}
        for step in range(minutes * 4):
            values = generator.integers(0, 1_000, series).astype(float).tolist()
            samples[milliseconds(START) + 15_000 * step] = dict(zip(keys, values, strict=True))
        installation.collect(target, samples)
    installation.now += timedelta(hours=1)
    installation.roll_up()


def measured(installation: Installation) -> Measured:
    return installation.database.run(measure)


def of(found: Measured, layer: str, form: str) -> Stored:
    (only,) = [one for one in found.stored if (one.layer, one.form) == (layer, form)]
    return only


def counted(installation: Installation, layer: str) -> int:
    """All samples, or all rollups of a tier, as readers see them."""
    view = "samples" if layer == "samples" else f'"metrics_{layer}"'
    with installation.database.engine.connect() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM aggregator.{view}")).scalar_one())  # noqa: S608 - ours


def size(installation: Installation, *prefixes: str) -> int:
    statement = text(
        "SELECT coalesce(sum(pg_total_relation_size(oid)), 0) FROM pg_class WHERE relkind = 'r'"
        " AND relnamespace = 'aggregator'::regnamespace AND relname ~ ANY (:prefixes)"
    )
    where = {"prefixes": [f"^{prefix}_[0-9]{{8}}$" for prefix in prefixes]}
    with installation.database.engine.connect() as connection:
        return int(connection.execute(statement, where).scalar_one())


def test_an_empty_database_has_partitions_and_nothing_in_them(installation: Installation) -> None:
    found = measured(installation)
    assert [(one.layer, one.form) for one in found.stored] == [
        (layer, form) for layer in LAYERS for form in ("open", "sealed")
    ]
    assert all((one.items, one.bytes_each, one.counted.is_exact) == (0, None, True) for one in found.stored)
    assert of(found, "samples", "open").size_bytes == size(installation, "sample_frame") > 0
    assert found.series == {}
    layers = layers_of(installation.settings)
    assert found.prices(layers).of(layers[1], "host") == layers[1].price


def test_a_small_table_is_counted_as_a_whole(installation: Installation) -> None:
    fill(installation, minutes=10, series=6)
    found = measured(installation)
    for layer in LAYERS:
        stored = of(found, layer, "open")
        assert stored.items == counted(installation, layer), layer
        assert stored.counted.is_exact, layer
    assert of(found, "1m", "open").size_bytes == size(installation, "rollup_1m")
    assert found.series == {installation.source_id: 6}


def test_a_larger_one_is_estimated_on_some_pages(installation: Installation) -> None:
    fill(installation, minutes=120, series=400, targets=2)
    found = measured(installation)
    for layer in ("samples", "1m", "5m"):
        stored = of(found, layer, "open")
        assert stored.items == pytest.approx(counted(installation, layer), rel=NEAR), layer
        assert not stored.counted.is_exact, layer
        assert stored.counted.share_of(installation.source_id) == 1
    assert of(found, "1m", "open").bytes_each == pytest.approx(64, rel=0.25)
    layer = layers_of(installation.settings)[1]
    prices = found.prices([layer])
    assert prices.of(layer, "scripted") == prices.of(layer, "host")
    assert 55 < prices.of(layer, "scripted").open < 80
    assert prices.of(layer, "scripted").sealed == layer.price.sealed


def test_what_each_source_takes_adds_up_to_all(installation: Installation) -> None:
    fill(installation, minutes=30, series=100)
    first = installation.source_id
    installation.source_id = installation.database.run(_other_source)
    fill(installation, minutes=30, series=300)
    found = measured(installation)
    stored = of(found, "1m", "open")
    assert found.series == {first: 100, installation.source_id: 300}
    assert stored.counted.share_of(installation.source_id) == pytest.approx(0.75, abs=0.15)
    assert found.bytes_of(first) + found.bytes_of(installation.source_id) == pytest.approx(
        sum(one.size_bytes for one in found.stored if one.items), abs=2
    )


def test_what_is_sealed_counts_in_its_own_form(installation: Installation) -> None:
    fill(installation, minutes=300, series=150)
    before = {layer: counted(installation, layer) for layer in ("1m", "5m")}
    Maintain(installation.database, "test").run(clock=lambda: installation.now)
    found = measured(installation)
    is_open, is_sealed = (of(found, "1m", form) for form in ("open", "sealed"))
    assert is_open.items == pytest.approx(before["1m"] / 5, rel=NEAR)
    assert is_sealed.items == pytest.approx(before["1m"] * 4 / 5, rel=NEAR)
    assert is_sealed.size_bytes == size(installation, "sealed_1m", "clock_1m")
    assert is_sealed.bytes_each == pytest.approx(is_sealed.filled_bytes / (before["1m"] * 4 / 5), rel=NEAR)
    assert is_sealed.counted.share_of(installation.source_id) == 1
    assert 50 < (is_open.bytes_each or 0) < 100
    assert is_open.empty_bytes == pytest.approx(is_open.filled_bytes * 4 / 5, rel=2 * NEAR)
    assert (of(found, "5m", "open").items, of(found, "5m", "sealed").items) == (
        pytest.approx(before["5m"], rel=NEAR),
        0,
    )
    layer = layers_of(installation.settings)[1]
    assert found.prices([layer]).of(layer, "scripted").sealed == pytest.approx(is_sealed.bytes_each)


def test_a_sealed_series_that_lacks_buckets_counts_only_those_that_it_has(installation: Installation) -> None:
    installation.now = START + timedelta(hours=4)
    (target,) = installation.targets(1)
    whole, half = (series_key(name, 0, Kind.GAUGE) for name in ("whole", "half"))
    samples = {
        milliseconds(START) + 60_000 * minute: {whole: 1.0} | ({half: 2.0} if minute % 2 else {})
        for minute in range(240)
    }
    installation.collect(target, samples)
    installation.now += timedelta(hours=1)
    installation.roll_up()
    assert counted(installation, "1m") == 240 + 120
    Maintain(installation.database, "test").run(clock=lambda: installation.now)
    stored = of(measured(installation), "1m", "sealed")
    assert (stored.items, stored.counted.is_exact) == (240 + 120, True)


def test_sealed_samples_count_as_their_clock_says(installation: Installation) -> None:
    targets = installation.targets(2)

    def work(connection: Connection) -> None:
        for one in SEALED_SAMPLES:
            partitions.ensure(connection, one, since=START, until=START + timedelta(hours=1))
        for target in targets:
            keys = {"target_id": target.id, "map_id": target.id, "start": START, "clock": 0}
            at = {"at_base": 500.0, "at_divisor": 1.0, "at_ints": [0, 15_000, 30_000]}
            connection.execute(insert(tables.sample_clock).values(**keys, **at, samples=3))
            for place in range(1, 6):
                connection.execute(insert(tables.sample_sealed).values(**keys, place=place, value_base=1.0))

    installation.database.run(work)
    stored = of(measured(installation), "samples", "sealed")
    assert (stored.items, stored.counted.is_exact, stored.empty_bytes) == (2 * 5 * 3, True, 0)
    assert stored.size_bytes == size(installation, "sample_sealed", "sample_clock")
    assert stored.counted.share_of(installation.source_id) == 1
    finer = Tier(name="10s", step=timedelta(seconds=10), retention=timedelta(days=2))
    settings = installation.settings.model_copy(update={"tiers": (*installation.settings.tiers, finer)})
    now = START + timedelta(hours=6)
    (change,) = [
        change
        for change in installation.database.run(lambda connection: make_plan(connection, settings, now=now)).changes
        if change.name == "10s"
    ]
    assert (change.buckets, change.since) == (4, START)


def test_a_partition_that_goes_meanwhile_is_no_error(installation: Installation) -> None:
    gone = [sampled_pages.Leaf("rollup_1m_19990101", 3, 24_576)]
    found = installation.database.run(
        lambda connection: (
            sampled_pages.count_items(connection, sampled_pages.OPEN_ROLLUPS, gone),
            connection.execute(text("SELECT 1")).scalar_one(),
        )
    )
    assert found == (sampled_pages.NOTHING, 1)


def _other_source(connection: Connection) -> int:
    statement = text(
        "INSERT INTO aggregator.sources (name, kind, definition, interval_seconds, offset_seconds, active,"
        " published_at, published_by) VALUES ('other', 'prometheus', '{}', 15, 0, true, now(), 'test') RETURNING id"
    )
    return int(connection.execute(statement).scalar_one())
