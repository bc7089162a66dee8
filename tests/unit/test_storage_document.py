"""docs/storage.md says what the estimate computes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from aggregator.cli.costs import size
from aggregator.config.load import load_settings
from aggregator.storage.costs import (
    COARSER_ROLLUP,
    FINEST_ROLLUP,
    HORIZONS,
    SAMPLE,
    Cost,
    Load,
    Price,
    Prices,
    cost_of,
    layers_of,
)

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "storage.md").read_text()
SERIES, INTERVAL_SECONDS = 1_500, 15
LAYERS = layers_of(load_settings(environment={"HOME": "/none"}))
ROLLUPS = [layer.name for layer in LAYERS if layer.step]
FLEETS = (1, 20, 200)


def rows() -> list[list[str]]:
    """All rows of all tables, by cell."""
    lines = [line for line in DOCUMENT.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def load(targets: int) -> Load:
    return Load("node", targets * SERIES, targets * SERIES / INTERVAL_SECONDS)


def told(cost: Cost) -> list[str]:
    return [size(cost.size_bytes(horizon)) for horizon in HORIZONS]


def flat(sample: float, rollup: float) -> Prices:
    """One price of whatever form."""
    return Prices({"samples": Price(sample, sample)} | dict.fromkeys(ROLLUPS, Price(rollup, rollup)))


def all_samples(targets: int, *bytes_each: float) -> list[str]:
    """What every sample takes that is never given up; a range where two prices are given."""
    found = []
    for age in list(HORIZONS.values())[:-1]:
        samples = load(targets).samples_per_second * age.total_seconds()
        found.append(" to ".join(size(samples * each) for each in bytes_each))
    return [*found, "more each day"]


def fleet(targets: int) -> Iterator[list[str]]:
    """The rows of one fleet."""
    first = f"{targets}"
    yield [first, "**here**", *told(cost_of(LAYERS, [load(targets)]))]
    yield [first, "Prometheus, all samples", *all_samples(targets, 1, 2)]
    yield [first, "VictoriaMetrics, all samples", *all_samples(targets, 1.5)]
    yield [first, "TimescaleDB, all samples", *all_samples(targets, 5.6)]
    yield [first, "VictoriaMetrics, the same tiers", *told(cost_of(LAYERS, [load(targets)], prices=flat(1.5, 6.3)))]
    yield [first, "TimescaleDB, the same tiers", *told(cost_of(LAYERS, [load(targets)], prices=flat(5.6, 20)))]


@pytest.mark.parametrize("targets", FLEETS)
def test_the_table_of_fleets_is_what_the_estimate_computes(targets: int) -> None:
    documented = [row for row in rows() if len(row) == 6 and row[0] == str(targets)]
    assert documented == list(fleet(targets))


def test_the_documented_bytes_are_those_of_the_code() -> None:
    found = rows()
    assert ["bytes of a sample, a node exporter's", f"{SAMPLE.open}", f"{SAMPLE.sealed}"] in found
    rollup = "bytes of a 1m rollup of seven statistics, a node exporter's"
    assert [rollup, f"{FINEST_ROLLUP.open}", f"{FINEST_ROLLUP.sealed}"] in found
    by_name = {row[0]: row[1:3] for row in found}
    assert by_name["here, open"] == [
        f"{SAMPLE.open}",
        f"{FINEST_ROLLUP.open}; {COARSER_ROLLUP.open} above the finest tier",
    ]
    assert by_name["here, sealed"] == [f"{SAMPLE.sealed}", f"{FINEST_ROLLUP.sealed}"]
    assert FINEST_ROLLUP.sealed == COARSER_ROLLUP.sealed


def test_a_day_that_is_sealed_is_as_large_as_documented() -> None:
    day = {layer.name: layer.per_second(load(200)) * 86_400 * layer.price.sealed for layer in LAYERS}
    left = sum(found for name, found in day.items() if name not in ("samples", "1m"))
    sentence = re.search(
        r"One day of 200 of them, once it is sealed, is (.+?)\. Of that all but (.+?) is gone", DOCUMENT
    )
    assert sentence is not None
    assert sentence.groups() == (size(sum(day.values())), size(left))


def test_how_long_each_default_tier_stays_open_is_documented() -> None:
    spans = {row[0].strip("`"): row[1] for row in rows() if row[-1].endswith("and `lateness`")}
    lateness = load_settings(environment={"HOME": "/none"}).lateness
    for layer in LAYERS:
        assert layer.open_for is not None
        hours = (layer.open_for - lateness).total_seconds() / 3_600
        days, rest = divmod(round(hours), 24)
        expected = " ".join(part for part in (f"{days} d" if days else "", f"{rest} h" if rest else "") if part)
        assert spans[layer.name] == expected
