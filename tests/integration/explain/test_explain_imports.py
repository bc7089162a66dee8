"""What `aggregator explain` says of samples that were imported, sparse ones among them, and of what became of them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from aggregator.stages.maintain import Maintain
from aggregator.stages.rollup import Rollup
from tests.explained import Typed, explained
from tests.importing import NOW, Site, written
from tests.installation import LONG

OLD = (NOW - timedelta(days=300)).replace(hour=6)
MANY = 40


def import_old(site: Site, folder: Path) -> None:
    """The last counter of many has samples between those of the others: such frames are sparse."""
    lines = ["# TYPE jobs counter"]
    for place in range(MANY):
        seconds = range(0, 300, 15) if place == MANY - 1 else range(0, 300, 60)
        lines += [
            f'jobs_total{{instance="a",place="{place}"}} {second * 2 if second < 150 else second} '
            f"{OLD.timestamp() + second:.3f}"
            for second in seconds
        ]
    site.run(written(folder / "old.om", lines), source="old")
    Rollup(site.database, "test").run(lambda: NOW, budget=LONG)


def test_samples_that_were_imported_are_explained_from_dense_and_sparse_frames(
    site: Site, tmp_path: Path, typed: Typed
) -> None:
    import_old(site, tmp_path)
    (sparse,) = site.ask("SELECT count(*) FILTER (WHERE places IS NOT NULL), count(*) FROM aggregator.sample_frame")
    assert sparse == (15, 20)
    found = explained(typed, site.url, 'jobs_total{place="39"}', OLD, "5m")
    assert len(found["samples"]) == 20
    assert [sample["flags"] for sample in found["samples"]][:2] == [["first", "imported"], ["imported"]]
    assert sum(sample["delta"] or 0 for sample in found["samples"]) == found["rollup"]["increase"]
    assert [(check["from"], check["equal"]) for check in found["checks"]] == [("samples", True), ("1m", True)]
    assert found["notes"] == []
    assert found["collections"] == []
    assert {run["backfill"] for run in found["runs"]} == {True}


def test_a_long_table_is_cut_and_json_is_not(site: Site, tmp_path: Path, typed: Typed) -> None:
    lines = [f'heat{{instance="a"}} {second} {OLD.timestamp() + second:.3f}' for second in range(0, 1_500, 15)]
    site.run(written(tmp_path / "long.om", lines), source="old")
    _, out, _ = typed(site.url, "heat", OLD, "1h")
    assert "... 84 more" in out
    assert len(explained(typed, site.url, "heat", OLD, "1h")["samples"]) == 100


def test_once_imported_samples_are_gone_it_says_from_what_the_rollup_was_made(
    site: Site, tmp_path: Path, typed: Typed
) -> None:
    import_old(site, tmp_path)
    Maintain(site.database, "test").run(clock=lambda: NOW + timedelta(days=5))
    finest = explained(typed, site.url, 'jobs_total{place="39"}', OLD, "1m")
    assert finest["made_of"] == [{"source": "samples", "count": 0}]
    assert finest["rollup"]["count"] == 4
    assert finest["notes"][0].startswith("samples before ")
    assert {run["backfill"] for run in finest["runs"]} == {True}
    code, out, _ = typed(site.url, 'jobs_total{place="39"}', OLD, "1d")
    assert code == 0
    assert "made of    20 samples; still there: 20 in 1h, 20 in 5m, 20 in 1m, 0 as samples" in out
    assert "computed anew from the rollups of 1h: the same, to the last bit" in out
