"""What `aggregator plan` says of a change, beside what publishing it and the next `maintain` then do."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from aggregator.cli.app import run
from aggregator.config.digest import config_hash
from aggregator.config.model import Rule, Settings, Summary, Tier
from aggregator.config.selector import parse_selector
from aggregator.config.source_model import HostSource
from aggregator.errors import UsageError
from aggregator.exposition.series import Kind
from aggregator.rollups.buckets import milliseconds
from aggregator.stages.maintain import Maintain
from aggregator.storage import publish, recompute
from aggregator.storage.plan import Plan, make_plan
from aggregator.storage.plan_changes import Change
from aggregator.storage.reading import Reader
from aggregator.tasks.recomputation import Recomputation
from tests.installation import Installation, series_key, settings_for

START = datetime(2026, 3, 1, 10, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
EVERY = '{__name__=~".+"}'


@pytest.fixture
def filled(installation: Installation) -> Installation:
    """Three hours of a gauge and a counter on two targets, rolled up; two days later."""
    installation.now = START + 3 * HOUR
    for number, target in enumerate(installation.targets(2)):
        keys = (series_key("g", number, Kind.GAUGE), series_key("c_total", number, Kind.COUNTER))
        seconds = range(0, 3 * 3_600, 30)
        installation.collect(
            target, {milliseconds(START) + 1_000 * at: dict.fromkeys(keys, float(at)) for at in seconds}
        )
    installation.now = START + 2 * DAY
    installation.roll_up()
    return installation


def changed(installation: Installation, **changes: Any) -> Settings:
    return installation.settings.model_copy(update={"file": Path("changed.toml"), **changes})


def planned(installation: Installation, settings: Settings) -> Plan:
    """The plan, in a transaction that can write nothing."""
    reader = Reader.connect(installation.url, application="test").of_one_instant()
    found = reader.run(lambda connection: make_plan(connection, settings, now=installation.now))
    reader.dispose()
    return found


def publish_it(installation: Installation, settings: Settings) -> None:
    installation.database.run(
        lambda connection: publish.publish(
            connection, settings, config_hash=config_hash(settings), now=installation.now
        )
    )


def of(found: Plan, what: str) -> dict[str, Change]:
    return {change.name: change for change in found.changes if change.what == what}


def partitions_there(installation: Installation) -> set[str]:
    statement = text(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relispartition"
        " AND relnamespace = 'aggregator'::regnamespace"
    )
    with installation.database.engine.connect() as connection:
        return set(connection.execute(statement).scalars())


def with_tiers(installation: Installation, **retentions: timedelta) -> tuple[Tier, ...]:
    return tuple(
        tier.model_copy(update={"retention": retentions.get(f"of_{tier.name}", tier.retention)})
        for tier in installation.settings.tiers
    )


def test_what_is_published_already_changes_nothing(installation: Installation) -> None:
    publish_it(installation, installation.settings)
    found = planned(installation, changed(installation))
    assert (found.changes, found.partitions_made, found.drops, found.is_to_publish) == ((), 0, (), False)
    assert found.published_by == "test"


def test_sources_that_come_change_and_go(filled: Installation) -> None:
    host, own = filled.settings.sources
    sources = (
        host.model_copy(update={"interval": timedelta(seconds=30), "timeout": timedelta(seconds=7)}),
        HostSource(name="more", kind="host"),
    )
    found = planned(filled, changed(filled, sources=sources))
    assert {name: change.action for name, change in of(found, "source").items()} == {
        "host": "changed",
        "more": "added",
        own.name: "removed",
        "scripted": "removed",
    }
    assert of(found, "source")["host"].effect == "interval, timeout; its series go on"
    gone = of(found, "source")["scripted"]
    assert "its 4 series stay" in gone.effect
    assert gone.size_bytes
    publish_it(filled, changed(filled, sources=sources))
    again = planned(filled, changed(filled, sources=filled.settings.sources))
    assert of(again, "source")[own.name].effect == "is collected again; its series go on"
    with filled.database.engine.connect() as connection:
        active = connection.execute(text("SELECT name FROM aggregator.sources WHERE active ORDER BY name"))
        assert active.scalars().all() == ["host", "more"]


@pytest.mark.parametrize(
    ("name", "step", "origin", "buckets"),
    [("10m", 10 * MINUTE, "5m", 18), ("30s", MINUTE / 2, "samples", 360), ("2h", 2 * HOUR, "1h", 2)],
)
def test_a_tier_that_comes_can_be_filled_with_as_many_buckets_as_a_recomputation_then_makes(
    filled: Installation, name: str, step: timedelta, origin: str, buckets: int
) -> None:
    added = Tier(name=name, step=step, retention=90 * DAY)
    settings = changed(filled, tiers=(*filled.settings.tiers, added))
    before = partitions_there(filled)
    found = planned(filled, settings)
    change = of(found, "tier")[name]
    assert list(of(found, "tier")) == [name]
    assert (change.action, change.buckets, change.since) == ("added", buckets, START)
    assert change.effect.endswith(f"recompute could fill up to {buckets} buckets from {origin}")
    publish_it(filled, settings)
    assert len(partitions_there(filled) - before) == found.partitions_made > 0
    assert filled.rows(f"metrics_{name}") == {}
    filled.now += MINUTE
    request, scope = filled.database.run(
        lambda connection: (
            recompute.begin(connection, EVERY, since=START - DAY, until=filled.now, now=filled.now),
            recompute.scope_of(connection, parse_selector(EVERY)),
        )
    )
    Recomputation(filled.database, filled.rollup, lambda: filled.now).run(request, scope, report=lambda _: None)
    assert len({time for _, _, time in filled.rows(f"metrics_{name}")}) == buckets


def test_a_tier_that_goes_keeps_what_it_has(filled: Installation) -> None:
    settings = changed(filled, tiers=tuple(tier for tier in filled.settings.tiers if tier.name != "1d"))
    change = of(planned(filled, settings), "tier")["1d"]
    assert (change.action, change.effect) == ("removed", "is no longer computed; what it has stays, for ever")
    assert change.size_bytes
    publish_it(filled, settings)
    filled.now += 4_000 * DAY
    Maintain(filled.database, "test").run(clock=lambda: filled.now)
    with filled.database.engine.connect() as connection:
        rows = connection.execute(text("SELECT count(*) FROM aggregator.rollup WHERE tier_id = 4")).scalar_one()
    assert rows == 2


def test_a_shorter_retention_drops_what_the_next_maintain_then_drops(filled: Installation) -> None:
    publish_it(filled, filled.settings)
    filled.now += 5 * DAY
    maintain = Maintain(filled.database, "test")
    maintain.run(clock=lambda: filled.now)
    settings = changed(filled, sample_retention=DAY, tiers=with_tiers(filled, of_1m=2 * DAY, of_5m=HOUR * 30))
    found = planned(filled, settings)
    assert of(found, "tier")["1m"].effect == "retention 14d becomes 2d; what is older goes"
    assert of(found, "setting")["sample_retention"].effect == "2d becomes 1d; what is older goes"
    assert {drop.layer for drop in found.drops} == {"samples", "1m", "5m"}
    assert all(drop.size_bytes > 0 for drop in found.drops)
    publish_it(filled, settings)
    done = maintain.run(clock=lambda: filled.now)
    assert done is not None
    assert {drop.partition for drop in found.drops if drop.held is None} == set(done.partitions_dropped)
    assert {(drop.partition, drop.held) for drop in found.drops if drop.held} == set(done.partitions_held)
    later = planned(filled, settings)
    assert (later.drops, later.changes) == ((), ())


def test_what_is_sealed_goes_as_planned_and_is_in_the_reach_of_rules(filled: Installation) -> None:
    publish_it(filled, filled.settings)
    maintain = Maintain(filled.database, "test")
    maintain.run(clock=lambda: filled.now)
    filled.now += 2 * HOUR  # the emptied open partition is dropped
    maintain.run(clock=lambda: filled.now)
    assert "rollup_1m_20260301" not in partitions_there(filled)
    rules = (Rule(name="all:g", select="g", by=()),)
    found = of(planned(filled, changed(filled, rules=rules)), "rule")["all:g"]
    publish_it(filled, changed(filled, rules=rules))
    assert len([tier for tier, _, _ in filled.marks() if tier == "1m"]) == found.buckets
    assert found.since is not None
    assert START - 4 * HOUR < found.since <= START
    filled.roll_up()
    settings = changed(filled, rules=rules, tiers=with_tiers(filled, of_1m=DAY), sample_retention=DAY)
    filled.now += 2 * DAY
    goes = [drop for drop in planned(filled, settings).drops if drop.layer == "1m"]
    (sealed,) = [drop for drop in goes if drop.partition == "rollup_1m_20260301"]
    assert (sealed.held, sealed.size_bytes > 0) == (None, True)
    publish_it(filled, settings)
    done = maintain.run(clock=lambda: filled.now)
    assert done is not None
    assert {drop.partition for drop in goes} <= set(done.partitions_dropped)
    assert "sealed_1m_20260301" not in partitions_there(filled)


def test_what_is_still_needed_is_planned_to_stay(filled: Installation) -> None:
    (target, _) = filled.targets(2)
    filled.collect_two(target, START + 2 * HOUR, g=5.0)
    settings = changed(filled, sample_retention=HOUR)
    filled.now += HOUR
    found = planned(filled, settings)
    assert [drop.held for drop in found.drops if drop.partition == "sample_frame_20260301"] == [
        "1 ledger rows still wait for it"
    ]
    publish_it(filled, settings)
    done = Maintain(filled.database, "test").run(clock=lambda: filled.now)
    assert done is not None
    assert {(drop.partition, drop.held) for drop in found.drops if drop.held} == set(done.partitions_held)


def test_a_longer_retention_brings_nothing_back(filled: Installation) -> None:
    settings = changed(filled, tiers=with_tiers(filled, of_1m=30 * DAY), lateness=5 * MINUTE)
    found = planned(filled, settings)
    assert of(found, "tier")["1m"].effect == "retention 14d becomes 30d; what is gone stays gone"
    assert of(found, "setting")["lateness"].effect == "2m becomes 5m"
    assert {drop.layer for drop in found.drops} == {"samples"}


def test_rules_that_come_and_change_compute_as_many_buckets_as_are_then_marked(filled: Installation) -> None:
    rules = (Rule(name="all:g", select="g", by=()), Rule(name="none", select="nothing", by=()))
    found = of(planned(filled, changed(filled, rules=rules)), "rule")
    assert (found["all:g"].action, found["all:g"].buckets, found["all:g"].since) == ("added", 180, START)
    assert found["none"].buckets == 0
    publish_it(filled, changed(filled, rules=rules))
    assert len(filled.marks()) == 180
    filled.roll_up()
    other = (Rule(name="all:g", select="g", by=("instance",)),)
    found = of(planned(filled, changed(filled, rules=other)), "rule")
    assert {name: (change.action, change.buckets) for name, change in found.items()} == {
        "all:g": ("changed", 180),
        "none": ("removed", None),
    }
    publish_it(filled, changed(filled, rules=other))
    assert len(filled.marks()) == 180


def test_summaries_that_come_change_and_go(installation: Installation) -> None:
    first, second, third = installation.settings.summaries
    wanted = (
        first.model_copy(update={"refresh": timedelta(minutes=5)}),
        second.model_copy(update={"top": 3}),
        Summary(name="new", select="up"),
    )
    found = planned(installation, changed(installation, summaries=wanted))
    assert {name: (change.action, change.effect) for name, change in of(found, "summary").items()} == {
        first.name: ("changed", "refresh; its answer stays"),
        second.name: ("changed", "its answer is forgotten and computed at the next wake"),
        "new": ("added", "is computed at the next wake"),
        third.name: ("removed", "is no longer refreshed"),
    }


def test_a_tier_with_other_buckets_is_refused_as_publishing_refuses_it(filled: Installation) -> None:
    tiers = (*filled.settings.tiers[:-1], Tier(name="1d", step=DAY, retention=900 * DAY, timezone="Europe/Berlin"))
    settings = changed(filled, tiers=tiers)
    with pytest.raises(UsageError, match="give the new tier another name"):
        planned(filled, settings)


def test_an_empty_database_that_is_migrated_gets_all_of_it(database_url: str, tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    reader = Reader.connect(database_url, application="test")
    found = reader.run(lambda connection: make_plan(connection, settings, now=START))
    reader.dispose()
    assert found.published_by is None
    assert {change.action for change in found.changes} == {"added"}
    assert [change.name for change in found.changes if change.what == "tier"] == ["1m", "5m", "1h", "1d"]


@pytest.fixture
def environment(filled: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "changed.toml"
    monkeypatch.setenv("AGGREGATOR_DATABASE_URL", filled.url)
    monkeypatch.setenv("AGGREGATOR_NODE", "test")
    monkeypatch.setenv("HOME", str(tmp_path))
    file.write_text('[[tiers]]\nname = "10m"\nstep = "10m"\nretention = "90d"\n')
    return file


def test_the_command_tells_people_and_programs_the_same(environment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--config", str(environment), "plan"]) == 0
    told = capsys.readouterr().out
    assert f"{environment} would replace what node test has published:" in told
    assert "+ tier 10m: is created empty, built from 5m; recompute could fill up to 18 buckets from 5m" in told
    assert "when full" in told
    assert run(["--config", str(environment), "plan", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    (tier,) = [change for change in document["changes"] if change["what"] == "tier"]
    assert (tier["name"], tier["buckets"], tier["since"]) == ("10m", 18, "2026-03-01T10:00Z")
    assert document["cost"]["bytes"]["year"] > document["cost"]["bytes"]["month"] > 0


def test_a_configuration_that_is_refused_and_a_database_that_is_away_end_with_2_and_3(
    environment: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment.write_text('[[tiers]]\nname = "1d"\nstep = "2d"\nretention = "900d"\n')
    assert run(["--config", str(environment), "plan"]) == 2
    environment.write_text("sample_retention = 3\n")
    assert run(["--config", str(environment), "plan"]) == 2
    environment.write_text("")
    monkeypatch.setenv("AGGREGATOR_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    assert run(["--config", str(environment), "plan"]) == 3
    assert "PostgreSQL cannot be reached" in capsys.readouterr().err


def test_check_counts_the_series_of_the_database_and_goes_without_one(
    environment: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment.write_text('[[sources]]\nname = "scripted"\nkind = "prometheus"\ntargets = ["http://t/m"]\n')
    assert run(["--config", str(environment), "check"]) == 0
    told = capsys.readouterr().out
    assert "4  counted" in told
    assert "too little yet to measure" in told
    monkeypatch.setenv("AGGREGATOR_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    assert run(["--config", str(environment), "check"]) == 0
    told = capsys.readouterr().out
    assert "1,003  assumed" in told
    assert "PostgreSQL cannot be reached" in told


@pytest.mark.usefixtures("environment")
def test_status_shows_what_is_stored(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert run(["status"]) == 1
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "stored of form bytes of them empty samples or rollups bytes each estimated" in lines
    assert any(line.startswith("1m open ") and " 720 " in line and line.endswith(" yes") for line in lines)
    assert any(line.startswith("scripted 4 ") and "1m open" in line for line in lines)
