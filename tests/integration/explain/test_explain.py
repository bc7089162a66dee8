"""`aggregator explain`: what made a number, for whoever asks why."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import text

from aggregator.rollups.buckets import milliseconds
from aggregator.stages.maintain import Maintain
from aggregator.stages.rollup import Rollup
from aggregator.storage.engine import Database
from tests.explained import DAY, GAUGE, MINUTE, START, Typed, explained, url_of
from tests.installation import LONG, Installation, settings_for


def test_a_reset_and_a_late_sample_are_named_and_the_sum_of_what_is_shown_is_what_is_stored(
    past: str, typed: Typed
) -> None:
    found = explained(typed, past, "requests_total", START, "5m")
    flags = {sample["at"]: sample["flags"] for sample in found["samples"] if sample["flags"]}
    assert flags == {
        "2026-03-01T11:59:47Z": ["edge"],
        "2026-03-01T12:02:02Z": ["late"],
        "2026-03-01T12:02:32Z": ["reset"],
    }
    late = next(sample for sample in found["samples"] if sample["flags"] == ["late"])
    assert late["received_at"] == "2026-03-01T12:08:00Z"
    assert (late["delta"], late["seconds"]) == (23.0, 30.0)
    counted = [sample["delta"] for sample in found["samples"][1:]]
    assert sum(counted) == found["rollup"]["increase"] == 100.0 + 45.0
    assert found["derived"]["rate"] == pytest.approx(145 / 300)
    assert [(check["from"], check["equal"], check["is_exact"]) for check in found["checks"]] == [
        ("samples", True, True),
        ("1m", True, True),
    ]
    assert (found["completeness"], found["is_final"]) == (19 / 20, True)
    assert found["bucket"]["seconds"] == 300


def test_collections_and_runs_behind_a_number_are_listed(past: str, typed: Typed) -> None:
    found = explained(typed, past, "requests_total", START, "5m")
    assert found["slots_missed"] == [
        {"first": "2026-03-01T12:01:45Z", "last": "2026-03-01T12:02:00Z", "count": 2},
    ]
    by_slot = {one["slot"]: one for one in found["collections"]}
    assert len(by_slot) == 19
    assert [slot for slot, one in by_slot.items() if one["taken_over"]] == ["2026-03-01T12:03:00Z"]
    assert by_slot["2026-03-01T12:03:00Z"]["node"] == "web1"
    assert [one["slot"][:16] for one in by_slot.values() if one["by_hand"]] == ["2026-03-01T12:08"]
    assert {one["outcome"] for one in by_slot.values()} == {"ok"}
    assert [run["started_at"] for run in found["runs"]][-1] == "2026-03-01T12:09:00Z"
    level = found["built_from"][0]
    assert (level["tier"], level["buckets"], level["total"]["count"], level["total"]["increase"]) == ("1m", 5, 19, 145)


def test_a_person_reads_the_same_in_plain_text(past: str, typed: Typed) -> None:
    code, out, _ = typed(past, 'requests_total{instance="t0"}', START, "5m")
    assert code == 0
    assert "\x1b" not in out
    lines = [line.split() for line in out.splitlines()]
    assert ["2026-03-01T12:02:02Z", "583", "23", "30", "2026-03-01T12:08:00Z", "late"] in lines
    assert ["2026-03-01T12:02:32Z", "0", "0", "15", "2026-03-01T12:02:32.200Z", "reset"] in lines
    assert "19 samples / 20 slots due = 95.0%; 2 slots were missed" in out
    assert "computed anew from the samples: the same, to the last bit" in out
    assert "claimed 2 times" in out


def test_a_gauge_has_its_moments_and_no_differences(past: str, typed: Typed) -> None:
    found = explained(typed, past, "temperature", START + MINUTE, "1m")
    values = [sample["value"] for sample in found["samples"]]
    assert found["kind"] == "gauge"
    assert {sample["delta"] for sample in found["samples"]} == {None}
    assert (found["rollup"]["count"], found["rollup"]["sum"]) == (len(values), sum(values))
    assert found["derived"]["avg"] == pytest.approx(sum(values) / len(values))
    assert [check["from"] for check in found["checks"]] == ["samples"]
    assert found["checks"][0]["equal"]


def test_an_empty_bucket_says_so_and_whether_slots_were_missed(past: str, typed: Typed) -> None:
    code, out, _ = typed(past, "temperature", START + 20 * MINUTE, "5m")
    assert code == 0
    assert "no sample of this series was stored in this bucket" in out
    assert "no rollup; 20 slots were missed" in out
    before = explained(typed, past, "temperature", START - DAY, "1h")
    assert (before["rollup"], before["slots_missed"], before["is_final"]) == (None, [], False)


def test_an_open_bucket_says_what_it_waits_for(copy: Database, typed: Typed) -> None:
    hour = explained(typed, url_of(copy), "temperature", START, "1h")
    assert not hour["is_final"]
    assert {mark["tier"] for mark in hour["marks"]} == {"1h"}
    assert "1 mark of its time waits in the ledger of shard" in " ".join(hour["not_final_because"])


def test_an_unknown_selector_finds_nothing_and_says_what_there_is(past: str, typed: Typed) -> None:
    code, out, err = typed(past, "temperatur", START, "5m")
    assert (code, out) == (1, "")
    assert "temperature" in err
    assert typed(past, "temperatur", START, "5m", "--json")[:2] == (1, "[]\n")


def test_too_many_series_are_cut_with_a_word(past: str, typed: Typed) -> None:
    code, out, err = typed(past, '{__name__=~"many_.*"}', START + 7 * MINUTE, "5m", "--json")
    assert code == 0
    assert len(json.loads(out)) == 10
    assert "more than 10 series match" in err


def test_an_unknown_tier_is_a_usage_error(past: str, typed: Typed) -> None:
    code, _, err = typed(past, "temperature", START, "7m")
    assert code == 2
    assert "1m, 5m, 1h, 1d" in err


def test_where_samples_are_gone_the_finer_rollups_are_shown_down_to_what_is_kept(copy: Database, typed: Typed) -> None:
    Rollup(copy, "test").run(lambda: START + 2 * DAY, budget=LONG)
    Maintain(copy, "test").run(clock=lambda: START + 5 * DAY)
    five = explained(typed, url_of(copy), "requests_total", START, "5m")
    assert [sample["flags"] for sample in five["samples"]] == [["edge"]]
    assert five["samples"][0]["received_at"] is None
    assert any("samples before" in note for note in five["notes"])
    assert [(check["from"], check["equal"]) for check in five["checks"]] == [("1m", True)]
    assert [rollup["count"] for rollup in five["built_from"][0]["rollups"]] == [4, 3, 4, 4, 4]
    day = explained(typed, url_of(copy), "requests_total", START, "1d")
    assert [(level["tier"], level["total"]["count"]) for level in day["built_from"]] == [
        ("1h", 27),
        ("5m", 27),
        ("1m", 27),
    ]
    code, out, _ = typed(url_of(copy), "requests_total", START, "1m")
    assert code == 0
    assert "not possible: neither its samples nor" in out


def test_a_number_that_was_changed_by_hand_is_contradicted(copy: Database, typed: Typed) -> None:
    change = text(
        "UPDATE aggregator.rollup SET increase[s.position] = increase[s.position] + 1 FROM aggregator.series AS s"
        " WHERE s.metric = 'requests_total' AND rollup.block_id = s.block_id AND bucket = :bucket AND tier_id ="
        " (SELECT id FROM aggregator.tiers WHERE name = '5m')"
    )
    copy.run(lambda connection: connection.execute(change, {"bucket": START}))
    code, out, _ = typed(url_of(copy), "requests_total", START, "5m")
    assert code == 1
    assert "computed anew from the rollups of 1m: DIFFERS: increase 145, stored 146" in out
    assert typed(url_of(copy), "requests_total", START, "1m")[0] == 0


def test_a_day_of_a_zone_whose_clock_changes_is_23_hours_long(
    database_url: str, tmp_path: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "zone.toml"
    file.write_text('[[tiers]]\nname = "1d"\nstep = "1d"\nretention = "10y"\ntimezone = "Europe/Berlin"\n')
    monkeypatch.setenv("AGGREGATOR_CONFIG", str(file))
    noon = datetime(2026, 3, 29, 12, tzinfo=UTC)
    with closing(Installation(database_url, noon, settings_for(tmp_path, AGGREGATOR_CONFIG=str(file)))) as made:
        (target,) = made.targets(1)
        made.collect(target, {milliseconds(noon) - 1_000: {GAUGE: 1.5}})
        made.now = noon + 2 * DAY
        made.roll_up()
        found = explained(typed, database_url, "temperature", noon, "1d")
        _, out, _ = typed(database_url, "temperature", noon, "1d")
    assert found["bucket"] == {
        "start": "2026-03-28T23:00:00Z",
        "end": "2026-03-29T22:00:00Z",
        "timezone": "Europe/Berlin",
        "seconds": 82_800,
    }
    assert found["rollup"]["count"] == 1
    assert "(2026-03-29T00:00:00+01:00 to 2026-03-30T00:00:00+02:00 in Europe/Berlin), 82,800 s" in out
