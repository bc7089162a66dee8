"""The arithmetic of what data costs: open and sealed parts, horizons, prices."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from aggregator.config.load import load_settings
from aggregator.config.model import Settings
from aggregator.storage.costs import (
    COARSER_ROLLUP,
    FINEST_ROLLUP,
    FULL,
    HORIZONS,
    SAMPLE,
    Layer,
    Load,
    Price,
    Prices,
    cost_of,
    layers_of,
)

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
LENGTHS = st.integers(1, 4_000).map(lambda hours: hours * HOUR)
PRICES = st.builds(Price, open=st.floats(1, 200), sealed=st.floats(0.1, 200))
LOADS = st.lists(st.builds(Load, st.sampled_from("abc"), st.floats(0, 1e6), st.floats(0, 1e6)), max_size=4)


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    kept = draw(LENGTHS)
    return Layer(
        name="layer",
        step=draw(st.none() | st.sampled_from([MINUTE, HOUR, DAY])),
        retention=kept,
        kept=kept,
        open_for=draw(st.none() | LENGTHS),
        price=draw(PRICES),
    )


def defaults(tmp_path: Path, text: str = "") -> Settings:
    (tmp_path / "a.toml").write_text(text)
    return load_settings(tmp_path / "a.toml", environment={"HOME": "/"})


def test_each_default_tier_is_open_for_a_span_and_lateness_and_kept_for_a_partition_longer(tmp_path: Path) -> None:
    found = {layer.name: layer for layer in layers_of(defaults(tmp_path))}
    late = 2 * MINUTE
    assert {name: layer.open_for for name, layer in found.items()} == {
        "samples": 4 * HOUR + late,
        "1m": 4 * HOUR + late,
        "5m": 21 * HOUR + late,
        "1h": 224 * HOUR + late,
        "1d": 182 * DAY + late,
    }
    assert {name: (layer.kept - layer.retention).days for name, layer in found.items()} == {
        "samples": 1,
        "1m": 1,
        "5m": 7,
        "1h": 28,
        "1d": 364,
    }
    assert [layer.price for layer in found.values()] == [SAMPLE, FINEST_ROLLUP, *[COARSER_ROLLUP] * 3]


def test_a_tier_of_local_days_stays_open(tmp_path: Path) -> None:
    text = '[[tiers]]\nname = "1d"\ntimezone = "Europe/Berlin"\n'
    *_, days = layers_of(defaults(tmp_path, text))
    assert (days.name, days.open_for) == ("1d", None)
    cost = cost_of([days], [Load("a", 10, 1)])
    assert cost.size_bytes("year") == 365 * 10 * COARSER_ROLLUP.open
    assert cost.layers[0].open_rows == cost.layers[0].rows


def test_a_cost_is_what_is_open_and_what_is_sealed() -> None:
    layer = Layer("1m", MINUTE, 14 * DAY, 15 * DAY, 4 * HOUR, Price(open=64, sealed=8))
    cost = cost_of([layer], [Load("a", 100, 7), Load("b", 200, 7)])
    assert cost.size_bytes("day") == 300 * (240 * 64 + (1_440 - 240) * 8)
    assert cost.size_bytes(FULL) == cost.size_bytes("month") == 300 * (240 * 64 + (15 * 1_440 - 240) * 8)
    assert (cost.layers[0].rows, cost.layers[0].open_rows) == (300 * 15 * 1_440, 300 * 240)


def test_samples_count_by_their_rate() -> None:
    layer = Layer("samples", None, 2 * DAY, 3 * DAY, 4 * HOUR, Price(open=10, sealed=1))
    assert cost_of([layer], [Load("a", 9, 2)]).size_bytes("day") == 2 * (4 * 3_600 * 10 + 20 * 3_600)


def test_the_price_of_a_source_beats_that_of_its_layer_which_beats_the_documented_one() -> None:
    layer = Layer("1m", MINUTE, DAY, DAY, None, Price(64, 8))
    prices = Prices({"1m": Price(2, 2)}, {("1m", "a"): Price(3, 3)})
    loads = [Load("a", 1, 1), Load("b", 1, 1)]
    assert cost_of([layer], loads, prices=prices).size_bytes("day") == 1_440 * (3 + 2)
    assert cost_of([layer], loads, prices=Prices({"5m": Price(1, 1)})).size_bytes("day") == 1_440 * 2 * 64


@given(layer=layers(), loads=LOADS)
def test_nothing_costs_less_later_and_costs_lie_between_all_sealed_and_all_open(
    layer: Layer, loads: list[Load]
) -> None:
    cost = cost_of([layer], loads)
    sizes = [cost.size_bytes(horizon) for horizon in HORIZONS]
    if layer.price.open >= layer.price.sealed:
        assert sizes == sorted(sizes)
    both = sorted((layer.price.open, layer.price.sealed))
    rows = sum(layer.per_second(load) for load in loads) * layer.kept.total_seconds()
    assert both[0] * rows * 0.999999 - 1 <= sizes[-1] <= both[1] * rows * 1.000001 + 1


@given(layer=layers(), loads=LOADS, age=LENGTHS)
def test_open_and_sealed_seconds_are_all_that_is_kept(layer: Layer, loads: list[Load], age: timedelta) -> None:
    is_open, sealed = layer.seconds(age)
    assert is_open + sealed == min(age, layer.kept).total_seconds()
    assert is_open >= 0 <= sealed
    assert layer.open_for is None or is_open <= layer.open_for.total_seconds()
    whole = cost_of([layer], loads)
    apart = [cost_of([layer], [load]) for load in loads]
    assert abs(whole.size_bytes(FULL) - sum(one.size_bytes(FULL) for one in apart)) <= len(loads) + 1
