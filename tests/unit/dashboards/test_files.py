"""The files of the dashboards: what Grafana's schema allows, made by the generator, laid out without overlap."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import fastjsonschema
import pytest

from deploy.grafana.generate import texts
from tests.dashboards.files import FOLDER, NAMES, load, panels

SCHEMA = Path(__file__).resolve().parents[4] / "shared" / "data" / "grafana-dashboard.jsonschema.json"


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    if not SCHEMA.exists():
        pytest.skip(f"Grafana's dashboard schema is not beside the checkout: {SCHEMA.name}")
    loaded: dict[str, Any] = json.loads(SCHEMA.read_text())
    return loaded


def test_the_files_are_what_the_generator_writes() -> None:
    written = {path.name: path.read_text() for path in (FOLDER / "dashboards").iterdir()}
    assert written == texts(), "run: python deploy/grafana/generate.py"


@pytest.mark.parametrize("name", NAMES)
def test_grafana_s_schema_allows_a_dashboard(schema: dict[str, Any], name: str) -> None:
    # Defaults would be written into a panel while it is tried as one of several kinds, and then it would be none.
    fastjsonschema.compile(schema, use_default=False)(load(name))


@pytest.mark.parametrize("name", NAMES)
def test_panels_are_in_the_grid_and_do_not_overlap(name: str) -> None:
    cells = [
        (x, y)
        for panel in load(name)["panels"]
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    # A row of the grid that is empty would be a hole in the dashboard.
    rows = {y for _, y in cells}
    assert rows == set(range(len(rows)))


@pytest.mark.parametrize("name", NAMES)
def test_every_panel_has_an_own_number_and_title_and_says_what_it_shows(name: str) -> None:
    dashboard = load(name)
    numbers = [panel["id"] for panel in dashboard["panels"]]
    titles = [panel["title"] for panel in dashboard["panels"]]
    assert len(set(numbers)) == len(numbers)
    assert len(set(titles)) == len(titles)
    assert all(panel["description"].endswith(".") for panel in panels(dashboard))


def test_dashboards_have_addresses_of_their_own() -> None:
    addresses = [load(name)["uid"] for name in NAMES]
    assert all(one != other for one, other in itertools.combinations(addresses, 2))
