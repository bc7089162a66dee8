"""What happens to the outputs of rules: late data, races, rules that come, change and go."""

from __future__ import annotations

from copy import copy
from datetime import timedelta

import pytest
from sqlalchemy import insert, select, text

from aggregator.config.model import Rule
from aggregator.errors import UsageError
from aggregator.stages.collect.store import FrameStore
from aggregator.stages.rollup import Rollup
from aggregator.storage import rule_inputs, tables
from aggregator.storage.engine import Connection, Database, transaction
from aggregator.storage.history_targets import find_or_make_target
from aggregator.storage.rule_inputs import Inputs
from aggregator.storage.rules import RuleEntry
from tests.installation import Installation
from tests.rule_steps import ALL, EACH, MINUTE, START, collect, outputs, publish, two_targets
from tests.ruled import publish_rules


def test_late_data_in_an_old_bucket_changes_all_tiers_of_the_output(installation: Installation) -> None:
    publish(installation, ALL)
    target = two_targets(installation)[0]
    installation.now = START + timedelta(days=1, hours=13)
    installation.roll_up()
    collect(installation, target, 0, {25: 1_000.0})
    installation.roll_up()
    assert outputs(installation, "metrics_1m", "all:g")[None, START] == 1_003.0
    for view, start in (("metrics_5m", START), ("metrics_1h", START), ("metrics_1d", START.replace(hour=0))):
        assert outputs(installation, view, "all:g") == {(None, start): 1_225.0}, view
    assert installation.marks() == []


def test_a_minute_of_a_rule_is_computed_once_when_all_shards_have_rolled_up(installation: Installation) -> None:
    publish(installation, ALL)
    targets = installation.targets(1)
    installation.now = START + timedelta(seconds=66)
    collect(installation, targets[0], 0, {20: 1.0})
    installation.roll_up()
    assert [mark for mark in installation.marks() if mark[0] == "1m"] == [("1m", START, None)]
    assert outputs(installation, "metrics_1m", "all:g") == {}
    installation.now = START + timedelta(seconds=80)
    installation.roll_up()
    assert outputs(installation, "metrics_1m", "all:g") == {(None, START): 1.0}


IN_MINUTES = [3.0, 21.0, 201.0]


@pytest.mark.parametrize(
    ("seconds", "sums"), [(1, IN_MINUTES), (15, IN_MINUTES), (60, IN_MINUTES), (120, [24.0, 201.0]), (600, [225.0])]
)
def test_a_range_of_outputs_is_put_together_as_any_other(
    installation: Installation, seconds: int, sums: list[float]
) -> None:
    publish(installation, ALL)
    target = two_targets(installation)[0]
    installation.roll_up()
    asked = {"since": START, "until": START + 10 * MINUTE, "interval": seconds * 1_000}
    points = text("SELECT sum, is_final FROM aggregator.metric_range('all:g', :since, :until, :interval) ORDER BY time")
    with installation.database.engine.connect() as connection:
        assert connection.execute(points, asked).all() == [(one, True) for one in sums]
    collect(installation, target, 0, {25: 1_000.0})
    with installation.database.engine.connect() as connection:
        assert [row.is_final for row in connection.execute(points, asked)] == [False, *[True for _ in sums[1:]]]


def test_an_output_is_not_final_while_an_input_is_dirty(installation: Installation) -> None:
    publish(installation, ALL)
    target = two_targets(installation)[0]
    installation.roll_up()
    before = {time: row["is_final"] for (name, _, time), row in installation.rows("metrics_1m").items() if ":" in name}
    assert before == dict.fromkeys([START, START + MINUTE, START + 2 * MINUTE], True)
    collect(installation, target, 0, {25: 1_000.0})
    after = {time: row["is_final"] for (name, _, time), row in installation.rows("metrics_1m").items() if ":" in name}
    assert after == before | {START: False}
    with installation.database.engine.connect() as connection:
        shown = text("SELECT is_final FROM aggregator.metrics_5m WHERE metric = 'all:g'")
        assert connection.execute(shown).scalars().all() == [False]


def test_a_rule_that_is_added_later_fills_its_history_in_all_tiers(installation: Installation) -> None:
    two_targets(installation)
    installation.now = START + timedelta(days=2)
    installation.roll_up()
    publish(installation, EACH)
    installation.roll_up()
    assert outputs(installation, "metrics_1m", "each:g") == {
        (f"t{place}", START + minute * MINUTE): value + place
        for place in (0, 1)
        for minute, value in enumerate((1.0, 10.0, 100.0))
    }
    assert outputs(installation, "metrics_1d", "each:g") == {
        ("t0", START.replace(hour=0)): 111.0,
        ("t1", START.replace(hour=0)): 114.0,
    }


def test_a_changed_rule_replaces_what_it_gave_before(installation: Installation) -> None:
    publish(installation, ALL)
    two_targets(installation)
    installation.now = START + timedelta(days=2)
    installation.roll_up()
    publish(installation, Rule(name="all:g", select='g{instance="t1"}', by=("instance",)))
    installation.roll_up()
    assert set(outputs(installation, "metrics_1m", "all:g")) == {("t1", START + n * MINUTE) for n in range(3)}
    for view in ("metrics_5m", "metrics_1h", "metrics_1d"):
        assert list(outputs(installation, view, "all:g").values()) == [114.0], view


def test_no_coarser_bucket_shows_old_and_new_outputs_side_by_side(installation: Installation) -> None:
    publish(installation, ALL)
    two_targets(installation)
    installation.now = START + timedelta(days=2)
    installation.roll_up()
    publish(installation, Rule(name="all:g", select="g", by=("instance",)))
    seen: set[frozenset[str | None]] = set()
    while installation.marks():
        installation.rollup.run(lambda: installation.now, budget=timedelta(milliseconds=1))
        for view in ("metrics_5m", "metrics_1h", "metrics_1d"):
            seen.add(frozenset(instance for instance, _ in outputs(installation, view, "all:g")))
    assert seen == {frozenset([None]), frozenset(["t0", "t1"])}


def test_buckets_whose_inputs_may_be_gone_stay_as_they_were(installation: Installation) -> None:
    publish(installation, ALL)
    two_targets(installation)
    installation.now = START + timedelta(days=2)
    installation.roll_up()
    views = ("metrics_1m", "metrics_5m", "metrics_1h", "metrics_1d")
    before = [outputs(installation, view, "all:g") for view in views]
    finest = select(tables.tiers.c.id).where(tables.tiers.c.name == "1m").scalar_subquery()
    gone = {"table_name": "rollup", "tier_id": finest, "dropped_before": START + timedelta(days=1)}
    installation.database.run(lambda connection: connection.execute(insert(tables.retained).values(gone)))
    publish(installation, Rule(name="all:g", select="g", by=("instance",)))
    installation.roll_up()
    assert [outputs(installation, view, "all:g") for view in views] == before
    assert installation.marks() == []


def test_a_removed_rule_keeps_what_it_has_and_nothing_marks_it_any_more(installation: Installation) -> None:
    publish(installation, ALL)
    target = two_targets(installation)[0]
    installation.roll_up()
    before = outputs(installation, "metrics_1m", "all:g")
    publish(installation)
    collect(installation, target, 0, {25: 1_000.0})
    installation.roll_up()
    assert outputs(installation, "metrics_1m", "all:g") == before
    publish(installation, ALL)
    installation.roll_up()
    assert outputs(installation, "metrics_1m", "all:g")[None, START] == 1_003.0


def test_outputs_are_never_inputs(installation: Installation) -> None:
    everything = Rule(name="all:everything", select='{__name__=~"g|.+:.+"}', by=())
    publish(installation, ALL, everything)
    two_targets(installation)
    installation.roll_up()
    publish(installation, ALL, everything, Rule(name="more:outputs", select="all:g", by=()))
    installation.roll_up()
    assert outputs(installation, "metrics_1m", "all:everything") == outputs(installation, "metrics_1m", "all:g")
    assert outputs(installation, "metrics_1m", "more:outputs") == {}


def test_old_samples_are_not_stored_among_the_outputs_of_a_rule(installation: Installation) -> None:
    publish(installation, ALL)
    labels = {"job": "rule:all:g", "instance": "x"}

    def work(connection: Connection) -> object:
        return find_or_make_target(connection, "rule:all:g", labels, interval=MINUTE, now=START)

    with pytest.raises(UsageError, match="a rule makes what has that name"):
        installation.database.run(work)


def test_a_sum_that_is_too_large_is_infinite_and_raises_nothing(installation: Installation) -> None:
    publish(installation, ALL)
    for place, target in enumerate(installation.targets(2)):
        installation.now = START + timedelta(minutes=10)
        collect(installation, target, place, {20: 1e308})
    installation.roll_up()
    assert outputs(installation, "metrics_5m", "all:g") == {(None, START): float("inf")}


def test_an_input_that_commits_between_taking_and_reading_is_not_lost(
    installation: Installation, other: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(installation, ALL)
    target = two_targets(installation)[0]
    installation.roll_up()
    collect(installation, target, 0, {25: 1_000.0})
    second = beside(installation, other)
    shards = input_shards(installation)
    read = rule_inputs.inputs_of
    overtaken: list[str] = []

    def read_after_another(connection: Connection, rule: RuleEntry) -> Inputs:
        """The bucket is off the ledger; now a late sample of another input comes and is rolled up beside."""
        if not overtaken:
            overtaken.append(rule.name)
            collect(second, target, 0, {30: 10_000.0})
            second.rollup.run(lambda: installation.now, budget=MINUTE, only=shards)
        return read(connection, rule)

    monkeypatch.setattr(rule_inputs, "inputs_of", read_after_another)
    installation.roll_up()
    assert overtaken == ["all:g"]
    assert outputs(installation, "metrics_1m", "all:g")[None, START] == 11_003.0


def beside(installation: Installation, other: Database) -> Installation:
    """The same installation in another session."""
    second = copy(installation)
    second.database, second.store = other, FrameStore(other)
    second.rollup = Rollup(other, "beside")
    return second


def test_nothing_is_rolled_up_while_rules_change_and_nothing_is_lost(
    installation: Installation, other: Database
) -> None:
    two_targets(installation)
    waiting = installation.marks()
    with transaction(other.engine) as connection:
        publish_rules(connection, installation.settings, [ALL], now=installation.now)
        assert installation.roll_up() == 0
        assert installation.marks() == waiting
    installation.roll_up()
    assert outputs(installation, "metrics_5m", "all:g") == {(None, START): 225.0}


def input_shards(installation: Installation) -> list[int]:
    rules = select(tables.rules.c.shard_id)
    statement = select(tables.shards.c.id).where(tables.shards.c.id.not_in(rules))
    with installation.database.engine.connect() as connection:
        return list(connection.execute(statement).scalars())
