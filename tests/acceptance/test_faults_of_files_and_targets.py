"""Garbage in a worker's files, and targets that do their worst: each is said to be what it is, and the others go on."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.acceptance.faults.fault import Fault, endure
from tests.acceptance.faults.scene import CONFIGURATION, Cast, Scene, scene
from tests.acceptance.machines import PATIENCE, fetched, rows
from tests.hostile_server import Hostile, hostile_server

pytestmark = pytest.mark.acceptance

#: What a target may do; the last two are keys of `BODIES`.
PATHS = (
    "slow",
    "dribble",
    "bomb",
    "lie",
    "halfzip",
    "short",
    "cut",
    "brotli",
    "html",
    "moved",
    "gone",
    "hangup",
    "gibberish",
    "long",
    "wide",
)
BODIES = {
    "/long": b'a{l="' + b"x" * 100_000 + b'"} 1\n',
    "/wide": b"a{" + b",".join(b'l%d="1"' % place for place in range(500)) + b"} 1\n",
}
_HOSTILE = """
[[sources]]
name = "hostile"
kind = "prometheus"
file_sd = ["{file}"]
interval = "6s"
timeout = "2s"
"""
_STATES = """
    SELECT t.address, t.is_up, t.last_error,
        (SELECT count(*)::int FROM aggregator.series AS s WHERE s.target_id = t.id
            AND s.metric NOT IN ('up') AND s.metric NOT LIKE 'scrape_%%')
    FROM aggregator.targets AS t JOIN aggregator.sources AS o ON o.id = t.source_id WHERE o.name = 'hostile'
"""


def garbage(folder: Path, seed: int) -> None:
    """Files of a worker's metrics that are cut, random, empty, or no files at all."""
    chance = random.Random(seed)  # noqa: S311 - it has to be bad, not secret
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("counter_0", "histogram_0", "counter_1", f"counter_{seed + 50}", f"none_of_ours_{seed}"):
        path = folder / f"{name}.db"
        if not path.exists():
            path.write_bytes(chance.randbytes(chance.randrange(3, 9_000)))
    (folder / f"gauge_livesum_{seed}.db").mkdir(exist_ok=True)
    (folder / f"counter_{seed + 60}.db").write_bytes(b"")
    (folder / "notes.txt").write_text("somebody else's")


@pytest.fixture
def here(open_directory: Path, tmp_path: Path) -> Iterator[Scene]:
    data = tmp_path / "data"
    garbage(data / "metrics" / "a", 1)
    (data / "servers.json").write_bytes(b"\x00\xff{")
    with hostile_server() as address:
        Hostile.bodies.update(BODIES)
        groups = [
            {"targets": [address], "labels": {"__metrics_path__": f"/{path}", "instance": path}}
            for path in ("good", *PATHS)
        ]
        (tmp_path / "targets.json").write_text(json.dumps(groups))
        cast = Cast(
            configuration=CONFIGURATION + _HOSTILE.format(file=tmp_path / "targets.json"),
            environment={"AGGREGATOR_DATA_DIR": str(data), "AGGREGATOR_CACHE_URL": "redis://127.0.0.1:1/0"},
        )
        with scene(tmp_path / "machines", open_directory / tmp_path.name, cast=cast) as made:
            yield made


def metrics(scene: Scene) -> str:
    """What the worker's exporter says."""
    return fetched(f"http://{scene.machines[0].environment['AGGREGATOR_EXPORTER_LISTEN']}/metrics")


def wrongly_seen(scene: Scene) -> list[tuple[object, ...]]:
    """The targets that are not told to be what they are: only the good one is up and has series, others say why not."""
    found = rows(scene.database_url, _STATES)
    missing = {"good", *PATHS} - {address.rpartition("/")[2] for address, *_ in found}
    wrong = [
        (address, is_up, error, series)
        for address, is_up, error, series in found
        if (is_up is not True if address.endswith("/good") else is_up is not False or series or not error)
    ]
    return [*wrong, *((name,) for name in sorted(missing))]


def test_bad_targets_and_bad_files_are_said_to_be_so_and_hold_up_nobody(here: Scene, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "metrics" / "a"
    endure(
        here,
        Fault(
            "garbage in the metrics directory, at the start and while running",
            "bad files are set aside and counted; the exporter answers",
            lambda _: garbage(folder, 2),
            lasts=timedelta(seconds=3),
        ),
    )
    assert here.wait(lambda: "aggregator_collections_total" in metrics(here), PATIENCE)
    assert here.wait((folder / "quarantine").exists, PATIENCE)
    assert any((folder / "quarantine").iterdir())
    assert here.wait(lambda: not wrongly_seen(here), PATIENCE), wrongly_seen(here)
    assert here.wait(lambda: 'outcome="' in metrics(here), PATIENCE)
    here.check().assert_right()
