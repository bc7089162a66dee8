"""The source kind `selftest`: what it gives is a function of the time, and all that became of it is checked by that."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import time_machine
from sqlalchemy import delete, select, text
from sqlalchemy.dialects.postgresql import insert

from aggregator.cli.app import run
from aggregator.collectors import selftest
from aggregator.collectors.outcome import REPORTED
from aggregator.collectors.protocol import Collected, Target
from aggregator.collectors.selftest import ADDRESS, CLOCK, FUNCTIONS, SelftestCollector
from aggregator.config.source_model import SelftestSource
from aggregator.rollups.buckets import from_milliseconds, milliseconds
from aggregator.stages.collect.wake import Wake
from aggregator.stages.verify import Range, Report, Verify
from aggregator.storage import tables
from aggregator.storage.engine import Connection
from aggregator.storage.health_verify import last_verification
from aggregator.tasks import work
from aggregator.tasks.context import context, forget_context
from tests.installation import Installation

#: So that both a reset and the end of a tooth lie within.
START = datetime(2026, 3, 1, 11, 48, tzinfo=UTC)
MINUTES = 20
SOURCE = SelftestSource(name="proof", keep=("selftest_.*",))
END = START + timedelta(minutes=MINUTES)


CONFIGURATION = """
[[sources]]
name = "proof"
kind = "selftest"
"""


def test_a_configured_source_is_collected_and_verified_by_command_and_by_task(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "aggregator.toml").write_text(CONFIGURATION)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AGGREGATOR_DATABASE_URL", database_url)
    forget_context()  # whatever this process did before
    for words in (("db", "migrate"), ("collect", "proof"), ("collect", "proof", "--dry-run")):
        assert run(words) == 0
    printed = capsys.readouterr().out
    assert f"selftest: {len(FUNCTIONS) + len(REPORTED)} samples" in printed
    assert 'selftest_constant{instance="selftest",job="proof"} 42.0' in printed
    assert run(("verify", "--from", "-1h")) == 0
    forget_context()
    try:
        assert work.verify(None) == 0
        verified = context().database.run(last_verification)
        context().database.dispose()
    finally:
        forget_context()
    assert verified is not None
    assert verified.error is None


@pytest.fixture
def proof(installation: Installation) -> Installation:
    """An installation whose scripted source is of kind selftest, with twenty minutes of it rolled up."""
    installation.source_id = installation.database.run(_make_source)
    wake = Wake(installation.database)
    wake.shards(installation.source_id, SOURCE, slot=None, now=installation.now)
    target = installation.database.run(_target)
    collector = SelftestCollector()
    batches = []
    for second in range(7, MINUTES * 60, 15):
        with time_machine.travel(START + timedelta(seconds=second, milliseconds=123), tick=False):
            (collected,) = collector.collect(SOURCE, [target])
        batches += collected.batches
    installation.now = END
    installation.collect_all([Collected(target, START, 0.01, tuple(batches), samples=len(batches))])
    installation.now = END + timedelta(days=1)
    installation.roll_up()
    return installation


def _make_source(connection: Connection) -> int:
    statement = tables.sources.insert().values(
        name="proof",
        kind="selftest",
        definition=SOURCE.model_dump(mode="json"),
        interval_seconds=15,
        offset_seconds=7,
        active=True,
        published_at=START,
        published_by="test",
    )
    return int(connection.execute(statement.returning(tables.sources.c.id)).scalar_one())


def _target(connection: Connection) -> Target:
    table = tables.targets
    row = connection.execute(select(table).where(table.c.address == ADDRESS)).one()
    return Target(row.id, row.address, tuple(sorted(row.labels.items())))


def look(installation: Installation) -> Report:
    stage = Verify(installation.database, "test")
    return stage.look(Range(START, END), clock=lambda: installation.now)


def change(installation: Installation, statement: str, **parameters: object) -> None:
    def work(connection: Connection) -> None:
        assert connection.execute(text(statement), parameters).rowcount

    installation.database.run(work)


def test_one_target_is_found_and_given_every_function_at_one_instant(proof: Installation) -> None:
    target = proof.database.run(_target)
    assert target.labels == (("instance", "selftest"), ("job", "proof"))
    (collected,) = SelftestCollector().collect(SelftestSource(name="proof"), [target])
    (batch,) = collected.batches
    given = {
        (key.metric, dict(key.labels).get("le", "")): value
        for key, value in zip(batch.keys, batch.values.tolist(), strict=True)
    }
    at_ms = milliseconds(batch.at)
    assert from_milliseconds(at_ms) == batch.at
    assert {name: given[name] for name in FUNCTIONS} == {
        name: function.value(at_ms) for name, function in FUNCTIONS.items()
    }
    assert given["up", ""] == 1


def test_every_sample_and_every_rollup_is_what_the_function_says(proof: Installation) -> None:
    report = look(proof)
    assert report.mismatches == ()
    assert report.samples == MINUTES * 4 * len(FUNCTIONS)
    with proof.database.engine.connect() as connection:
        rows = connection.execute(
            text("SELECT metric, increase FROM aggregator.metrics_1d WHERE metric LIKE 'selftest_%total' ORDER BY 1")
        ).all()
    # 79 intervals of 15 s; the last sample before 12:00 was at 11:59:52.123, so 7.877 s of the hour's end are lost.
    assert dict(rows) == {CLOCK: 79 * 15_000, selftest.TICKS: 79 * 15_000 - 7_877}


def test_a_changed_sample_is_found_and_named(proof: Installation) -> None:
    changed = """
        UPDATE aggregator.sample_frame AS f SET "values"[place.position] = 43
        FROM aggregator.frame_maps AS m
        CROSS JOIN unnest(m.series_ids) WITH ORDINALITY AS place (series_id, position)
        JOIN aggregator.series AS s ON s.id = place.series_id
        WHERE m.id = f.map_id AND s.metric = 'selftest_constant' AND f.at = :at
    """
    at = START + timedelta(seconds=7, milliseconds=123)
    change(proof, changed, at=at)
    found = look(proof).mismatches
    samples = [one for one in found if one.column == "sample"]
    assert [(one.metric, one.stored, one.recomputed) for one in samples] == [("selftest_constant", 43.0, 42.0)]
    assert at.isoformat() in str(samples[0])
    # What was made of the right sample is no longer what the samples say.
    assert {one.column for one in found} == {"sample", "sum", "max", "first", "m2"}


#: Finer tiers first: what they were made of is taken away on the way.
CHANGES = (
    ("1m", CLOCK, "last", 1.0),
    ("1m", selftest.CONSTANT, "m2", 1.0),
    ("1m", selftest.OFFSET, "max", 8.0),
    ("5m", selftest.SAWTOOTH, "first", 0.5),
    ("5m", selftest.TIME, "min", -1.0),
    ("1h", selftest.CONSTANT, "sum", 42.0),
    ("1h", selftest.TICKS, "increase", 15_000.0),
    ("1d", CLOCK, "increase", 1.0),
    ("1d", selftest.TIME, "max", 1.0),
    ("1d", CLOCK, "covered", 1.0),
)


def test_a_changed_rollup_is_found_though_all_input_is_gone(proof: Installation) -> None:
    for tier, metric, column, by in CHANGES:
        forget_what_is_finer(proof, tier)
        before = look(proof)
        assert before.mismatches == ()
        assert before.not_verifiable > 0
        change_first(proof, tier, metric, column, by=by)
        found = [one for one in look(proof).mismatches if one.tier == tier]
        assert metric in {one.metric for one in found}
        # What is covered is judged by what was gained in it.
        assert {one.column for one in found} & {column, "increase" if column == "covered" else column}
        change_first(proof, tier, metric, column, by=-by)


def change_first(proof: Installation, tier: str, metric: str, column: str, *, by: float) -> None:
    """Change the first bucket of a series behind our back."""
    statement = f"""
        UPDATE aggregator.rollup AS r SET "{column}"[s.position] = "{column}"[s.position] + :by
        FROM aggregator.series AS s, aggregator.tiers AS t
        WHERE s.block_id = r.block_id AND t.id = r.tier_id AND t.name = :tier AND s.metric = :metric AND r.bucket = (
            SELECT min(bucket) FROM aggregator.rollup WHERE tier_id = t.id
        )
    """  # noqa: S608 - our own columns
    change(proof, statement, tier=tier, metric=metric, by=by)


def forget_what_is_finer(proof: Installation, tier: str) -> None:
    """Take away the samples and all rollups that a tier was made of, as retention would."""

    def work(connection: Connection) -> None:
        finer = select(tables.tiers.c.id).where(
            tables.tiers.c.step_seconds
            < select(tables.tiers.c.step_seconds).where(tables.tiers.c.name == tier).scalar_subquery()
        )
        ids = list(connection.execute(finer).scalars())
        connection.execute(delete(tables.sample_frame))
        connection.execute(delete(tables.rollup).where(tables.rollup.c.tier_id.in_(ids)))
        gone = [{"table_name": "rollup", "tier_id": tier_id} for tier_id in ids]
        gone.append({"table_name": "sample_frame", "tier_id": 0})
        rows = [{**one, "dropped_before": END + timedelta(days=1)} for one in gone]
        connection.execute(insert(tables.retained).on_conflict_do_nothing(), rows)

    proof.database.run(work)
