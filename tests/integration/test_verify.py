"""What was changed behind our back is found and named; what is right, dirty, open or gone is not complained about."""

from __future__ import annotations

import itertools
import json
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client.samples import Sample as MetricSample
from sqlalchemy import text

from aggregator.cli.app import run
from aggregator.exposition.series import Kind, SeriesKey
from aggregator.rollups.buckets import milliseconds
from aggregator.serving.installation import InstallationMetrics
from aggregator.serving.status import Status
from aggregator.stages.verify import Range, Report, Sample, Verify
from aggregator.storage.engine import Connection, Database
from aggregator.storage.health import HealthReader
from tests.installation import LONG, Installation, series_key

START = datetime(2026, 3, 1, 11, 50, tzinfo=UTC)
GAUGE, COUNTER = series_key("g", 0, Kind.GAUGE), series_key("c_total", 0, Kind.COUNTER)
#: Two buckets of 1h with a gap and resets; the day has ended.
MINUTES = 20
TIERS = ("1m", "5m", "1h", "1d")
COLUMNS = {
    GAUGE: ("count", "sum", "min", "max", "first", "last", "m2"),
    COUNTER: ("count", "first", "last", "increase", "covered"),
}


@pytest.fixture
def filled(installation: Installation) -> Installation:
    """Two targets with two series each, rolled up in every tier."""
    installation.now = START + timedelta(minutes=MINUTES)
    for target in installation.targets(2):
        place = int(target.address.removeprefix("http://t")[0])
        gauge, counter = series_key("g", place, Kind.GAUGE), series_key("c_total", place, Kind.COUNTER)
        samples = {
            milliseconds(START) + second * 1_000: {gauge: 10.5 + second % 77, counter: float(second * 3 % 2_000)}
            for second in range(0, MINUTES * 60, 15)
            if not 300 <= second < 700
        }
        installation.collect(target, samples)
    installation.now = START + timedelta(days=1, hours=1)
    installation.roll_up()
    return installation


def look(installation: Installation, scope: Range | Sample | None = None) -> Report:
    stage = Verify(installation.database, "test")
    return stage.look(scope or Range(START, START + timedelta(minutes=MINUTES)), clock=lambda: installation.now)


def change(installation: Installation, statement: str, **parameters: object) -> None:
    def work(connection: Connection) -> None:
        assert connection.execute(text(statement), parameters).rowcount

    installation.database.run(work)


def change_rollups(
    installation: Installation,
    statement: str,
    condition: str = "",
    *,
    tier: str = "1m",
    bucket: datetime = START,
    **parameters: object,
) -> None:
    """Change the rollup rows of one bucket behind our back."""
    where = "WHERE bucket = :bucket AND tier_id = (SELECT id FROM aggregator.tiers WHERE name = :tier)"
    change(installation, f"{statement} {where} {condition}", bucket=bucket, tier=tier, **parameters)


def changes() -> Iterator[tuple[str, SeriesKey, str]]:
    for tier, (key, columns) in itertools.product(TIERS, COLUMNS.items()):
        for column in (*columns, *(("last_at",) if tier == "1m" else ())):
            yield tier, key, column


def test_a_clean_installation_has_nothing_to_complain_of(filled: Installation) -> None:
    for report in (look(filled), look(filled, Sample(200))):
        assert report.mismatches == ()
        assert (report.not_verifiable, report.left_out) == (0, 0)
        assert report.is_complete
        # 14 minutes have samples, and 3, 2, 1 buckets above them; of two targets with two series each.
        assert report.rollups == (14 + 3 + 2 + 1) * 4


def test_each_changed_element_of_each_tier_and_column_is_found_and_named(filled: Installation) -> None:
    for tier, key, column in changes():
        place = _place(filled, key)
        statement = f'UPDATE aggregator.rollup SET "{column}"[:position] = "{column}"[:position] + :by'  # noqa: S608
        where = "tier_id = (SELECT id FROM aggregator.tiers WHERE name = :tier) AND block_id = :block AND bucket = :at"
        bucket = filled.database.run(
            lambda connection, where=where, place=place, tier=tier: connection.execute(
                text(f"SELECT max(bucket) FROM aggregator.rollup WHERE {where.rpartition(' AND ')[0]}"),  # noqa: S608
                {**place, "tier": tier},
            ).scalar_one()
        )
        change(filled, f"{statement} WHERE {where}", **place, tier=tier, at=bucket, by=1)
        report = look(filled)
        named = {(one.tier, one.bucket, one.metric, one.column) for one in report.mismatches}
        assert (tier, bucket, key.metric, column) in named, (tier, key, column)
        mine = next(one for one in report.mismatches if (one.tier, one.column) == (tier, column))
        assert dict(mine.labels) == dict(key.labels)
        assert mine.stored == pytest.approx(mine.recomputed + 1)
        # Nothing but this element, and what the tier above is built with.
        above = TIERS[TIERS.index(tier) + 1 :][:1]
        assert {one.tier for one in report.mismatches} <= {tier, *above}
        assert {one.metric for one in report.mismatches} == {key.metric}
        change(filled, f"{statement} WHERE {where}", **place, tier=tier, at=bucket, by=-1)
    assert look(filled).mismatches == ()


def _place(installation: Installation, key: SeriesKey) -> dict[str, int]:
    statement = text(
        "SELECT block_id, position FROM aggregator.series WHERE metric = :metric AND labels ->> 'instance' = 't0'"
    )
    row = installation.database.run(lambda connection: connection.execute(statement, {"metric": key.metric}).one())
    return {"block": row.block_id, "position": row.position}


def test_a_rollup_that_is_missing_is_found(filled: Installation) -> None:
    bucket = START + timedelta(minutes=3)
    change_rollups(filled, "DELETE FROM aggregator.rollup", bucket=bucket)
    for report in (look(filled), look(filled, Sample(400))):
        missing = [one for one in report.mismatches if one.tier == "1m"]
        assert {(one.bucket, one.column, one.stored, one.recomputed) for one in missing} == {(bucket, "count", 0, 4)}
        assert {one.metric for one in missing} == {"g", "c_total"}


def test_an_element_that_is_null_is_found(filled: Installation) -> None:
    statement = "UPDATE aggregator.rollup SET sum[1] = NULL"
    change_rollups(filled, statement, "AND sum IS NOT NULL", bucket=START + timedelta(minutes=3))
    report = look(filled)
    assert {(one.tier, one.column) for one in report.mismatches} >= {("1m", "row")}
    assert report.total


def test_slots_that_are_not_those_of_the_finer_buckets_are_found(filled: Installation) -> None:
    change_rollups(filled, "UPDATE aggregator.rollup SET slots_due = slots_due + 1", tier="5m")
    found = look(filled).mismatches
    assert {(one.tier, one.column, one.stored) for one in found if one.tier == "5m"} == {("5m", "slots_due", 21)}


def test_a_sketch_that_holds_other_samples_than_its_rollup_is_found(filled: Installation) -> None:
    statement = """
        INSERT INTO aggregator.sketch (bucket, block_id, tier_id, positions, keys, counts)
        SELECT :bucket, :block, id, ARRAY[:position], ARRAY[7], ARRAY[:samples] FROM aggregator.tiers WHERE name = '1m'
    """
    place = _place(filled, GAUGE)
    change(filled, statement, bucket=START, samples=4, **place)
    assert look(filled).mismatches == ()
    change(filled, statement, bucket=START + timedelta(minutes=1), samples=3, **place)
    found = look(filled).mismatches
    assert [(one.tier, one.metric, one.column, one.stored, one.recomputed) for one in found] == [
        ("1m", "g", "sketch", 3, 4)
    ]


def test_what_is_dirty_is_left_out_with_the_lookback_behind_it(filled: Installation) -> None:
    target = filled.targets(2)[0]
    # Its counter makes the first difference of the next minute another one, which is not rolled up yet.
    filled.collect(target, {milliseconds(START) + 55_500: {COUNTER: 7_777.0}})
    report = look(filled)
    assert report.mismatches == ()
    # 11:50 to 11:55 and 12:00 is within the lookback of none: six of 1m, and one each of 5m, 1h and 1d.
    assert report.left_out == 6 + 3
    filled.roll_up()
    report = look(filled)
    assert (report.mismatches, report.left_out) == ((), 0)


def test_a_bucket_that_has_not_ended_is_left_out(filled: Installation) -> None:
    filled.now = START + timedelta(minutes=10, seconds=30)
    report = look(filled, Range(START, START + timedelta(minutes=11)))
    # 12:00 of 1m and of 5m, both hours but the first, and the day.
    assert (report.mismatches, report.left_out) == ((), 4)


def test_rollups_whose_input_is_gone_are_counted_and_still_checked_for_contradictions(filled: Installation) -> None:
    change(filled, "DELETE FROM aggregator.sample_frame")
    gone = "INSERT INTO aggregator.retained (table_name, dropped_before) VALUES ('sample_frame', :bound)"
    change(filled, gone, bound=START + timedelta(minutes=10))
    report = look(filled)
    # Five minutes before 11:55 of four series; what is after 12:00 has no excuse.
    assert report.not_verifiable == 5 * 4
    assert {(one.column, one.recomputed) for one in report.mismatches} == {("count", 0)}
    assert {one.bucket >= START + timedelta(minutes=10) for one in report.mismatches} == {True}
    statement = "UPDATE aggregator.rollup SET sum[:position] = 1e9"
    change_rollups(filled, statement, "AND block_id = :block", **_place(filled, GAUGE))
    found = [one for one in look(filled).mismatches if one.bucket == START and one.tier == "1m"]
    assert [(one.metric, one.column, one.stored) for one in found] == [("g", "sum", 1e9)]
    assert "between count times min and max" in str(found[0])


def test_the_first_difference_of_a_kept_bucket_comes_from_the_rollup_before_it_where_samples_are_gone(
    filled: Installation,
) -> None:
    bound = START + timedelta(minutes=2)
    change(filled, "DELETE FROM aggregator.sample_frame WHERE at < :bound", bound=bound)
    gone = "INSERT INTO aggregator.retained (table_name, dropped_before) VALUES ('sample_frame', :bound)"
    change(filled, gone, bound=bound)
    report = look(filled)
    assert (report.mismatches, report.not_verifiable) == ((), 2 * 4)
    change(
        filled,
        "DELETE FROM aggregator.rollup AS r USING aggregator.tiers AS t WHERE t.id = r.tier_id"
        " AND t.name = '1m' AND r.bucket < :bound",
        bound=bound,
    )
    dropped = "INSERT INTO aggregator.retained SELECT 'rollup', id, :bound FROM aggregator.tiers WHERE name = '1m'"
    change(filled, dropped, bound=bound)
    report = look(filled)
    # The two counters at 11:52 have lost the sample before, and 11:50 of 5m what it was made of.
    assert (report.mismatches, report.not_verifiable) == ((), 2 + 4)


def test_what_a_tier_was_not_there_for_or_has_dropped_is_not_missing(filled: Installation) -> None:
    later = START + timedelta(hours=1)
    change_rollups(filled, "DELETE FROM aggregator.rollup", tier="5m")
    change_rollups(filled, "DELETE FROM aggregator.rollup", tier="1h", bucket=START.replace(minute=0))
    change(filled, "UPDATE aggregator.tiers SET complete_since = :later WHERE name = '5m'", later=later)
    gone = "INSERT INTO aggregator.retained SELECT 'rollup', id, :later FROM aggregator.tiers WHERE name = '1h'"
    change(filled, gone, later=later)
    report = look(filled)
    # Of 1h only 12:00 is left, of which 5m has all; the day can be made of it no longer.
    assert (report.mismatches, report.not_verifiable) == ((), 4)


def test_nothing_is_complained_of_while_samples_arrive_and_are_rolled_up(
    installation: Installation, other: Database
) -> None:
    target = installation.targets(1)[0]
    randomness = random.Random(7)  # noqa: S311 - a test's own randomness
    instants = [second * 1_000 for second in range(0, 720, 15)]
    instants.sort(key=lambda at: at + (randomness.random() < 0.2) * randomness.randrange(600_000))

    is_marked, is_looked_at = threading.Event(), threading.Event()

    def write() -> None:
        for count, at in enumerate(instants):
            installation.now = max(installation.now, START + timedelta(milliseconds=at))
            installation.collect(target, {milliseconds(START) + at: {GAUGE: at / 7, COUNTER: float(at % 40_000)}})
            if count == len(instants) // 2:
                is_marked.set()
                assert is_looked_at.wait(60)
            if count % 3 == 0:
                installation.roll_up()

    stage, reports = Verify(other, "test"), []
    scope = Range(START, START + timedelta(minutes=20))
    with ThreadPoolExecutor(max_workers=1) as pool:
        writing = pool.submit(write)
        while not writing.done():
            sees_marks = is_marked.is_set()
            reports.append(stage.look(scope, clock=lambda: installation.now))
            if sees_marks:
                is_looked_at.set()
        writing.result()
    reports.append(stage.look(scope, clock=lambda: installation.now))
    assert [one for report in reports for one in report.mismatches] == []
    assert reports[-1].rollups
    assert any(report.left_out for report in reports)


def test_a_daily_run_claims_its_slot_counts_what_it_found_and_says_so(filled: Installation) -> None:
    stage, day = Verify(filled.database, "test"), timedelta(days=1)
    clean = stage.run(clock=lambda: filled.now, slot=START, budget=LONG)
    assert clean is not None
    assert clean.total == 0
    assert stage.run(clock=lambda: filled.now, slot=START, budget=LONG) is None
    change_rollups(filled, "UPDATE aggregator.rollup SET max[1] = 1e9", "AND max IS NOT NULL")
    found = stage.run(clock=lambda: filled.now, slot=START + day, budget=LONG)
    assert found is not None
    assert found.by_tier["1m"] == 1
    with filled.database.engine.connect() as connection:
        health = HealthReader().read(connection, now=filled.now)
    assert {tier.name: tier.verify_mismatches for tier in health.tiers} == {
        "1m": 1,
        "5m": found.by_tier["5m"],
        "1h": 0,
        "1d": 0,
    }
    status = Status(filled.now, {}, health)
    assert any("2 mismatches, such as 1m 2026-03-01T11:50:00Z g{" in problem for problem in status.problems())
    metrics = {sample.labels.get("tier"): sample.value for sample in _mismatches(status)}
    assert metrics["1m"] == 1


def _mismatches(status: Status) -> list[MetricSample]:
    families = InstallationMetrics(status, {}).collect()
    return next(family.samples for family in families if family.name == "aggregator_verify_mismatches")


def test_a_spent_budget_is_said(filled: Installation) -> None:
    report = Verify(filled.database, "test").look(Sample(50), clock=lambda: filled.now, budget=timedelta(0))
    assert not report.is_complete
    assert "not all was looked at" in report.summary()


def test_the_command_lists_what_differs_and_ends_with_one(
    filled: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AGGREGATOR_DATABASE_URL", filled.url)
    during = ("--from", START.isoformat(), "--to", (START + timedelta(minutes=MINUTES)).isoformat())
    assert run(("verify", *during)) == 0
    assert "0 mismatches" in capsys.readouterr().out
    assert run(("verify", "--sample", "20")) == 0
    change_rollups(filled, "UPDATE aggregator.rollup SET sum[1] = sum[1] + 1", "AND sum IS NOT NULL")
    capsys.readouterr()
    assert run(("verify", *during)) == 1
    printed = capsys.readouterr().out
    assert '1m 2026-03-01T11:50:00Z g{instance="t0",job="scripted"} sum: stored 133.0, recomputed 132.0' in printed
    assert run(("verify", "--json", *during)) == 1
    document = json.loads(capsys.readouterr().out)
    first = document["mismatches"][0]
    assert (first["tier"], first["metric"], first["column"], first["stored"]) == ("1m", "g", "sum", 133.0)
    assert (first["recomputed"], document["ok"]) == (132.0, False)
    assert run(("verify", "--from", "now", "--to", "-1h")) == 2
    assert run(("verify", "--to", "-1h")) == 2
