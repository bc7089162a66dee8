"""What happens to the outputs of rules: late data, races, rules that change and go, verification, explanation."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, text, update

from aggregator.collectors.protocol import Target
from aggregator.config.model import Rule
from aggregator.config.selector import parse_selector
from aggregator.errors import UsageError
from aggregator.exposition.series import Kind
from aggregator.rollups.buckets import milliseconds
from aggregator.serving.explanation import explain
from aggregator.serving.explanation_document import document
from aggregator.stages.collect.store import FrameStore
from aggregator.stages.rollup import Rollup
from aggregator.stages.verify import Range, Verify
from aggregator.stages.verify.report import Report
from aggregator.storage import catalog, recompute, rule_inputs, tables
from aggregator.storage.engine import Connection, Database
from aggregator.storage.explain import find_series
from aggregator.storage.explain_facts import gather
from aggregator.storage.history_targets import find_or_make_target
from aggregator.storage.rule_inputs import Inputs
from aggregator.storage.rules import RuleEntry
from aggregator.tasks.recomputation import Recomputation
from tests.installation import Installation, series_key
from tests.ruled import publish_rules

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
ALL = Rule(name="all:g", select="g", by=())
EACH = Rule(name="each:g", select="g", by=("instance",))


def publish(installation: Installation, *rules: Rule) -> None:
    installation.database.run(lambda found: publish_rules(found, installation.settings, rules, now=installation.now))


def collect(installation: Installation, target: Target, place: int, values: Mapping[int, float]) -> None:
    """Store samples of the gauge `g` of a target, by the seconds after `START`."""
    key = series_key("g", place, Kind.GAUGE)
    samples = {milliseconds(START) + 1_000 * second: {key: value} for second, value in values.items()}
    installation.collect(target, samples)


def outputs(installation: Installation, view: str, metric: str) -> dict[tuple[str | None, datetime], object]:
    """The sums of a rule's outputs by instance and bucket."""
    rows = installation.rows(view)
    return {(instance, time): row["sum"] for (name, instance, time), row in rows.items() if name == metric}


def two_targets(installation: Installation) -> list[Target]:
    """Two targets with three minutes of samples each, and a clock that stands long after them."""
    targets = installation.targets(2)
    installation.now = START + timedelta(minutes=10)
    for place, target in enumerate(targets):
        collect(installation, target, place, {20: 1.0 + place, 80: 10.0 + place, 140: 100.0 + place})
    return targets


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
    overtaken = []

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


def input_shards(installation: Installation) -> list[int]:
    rules = select(tables.rules.c.shard_id)
    statement = select(tables.shards.c.id).where(tables.shards.c.id.not_in(rules))
    with installation.database.engine.connect() as connection:
        return list(connection.execute(statement).scalars())


def verified(installation: Installation) -> Report:
    scope = Range(START - timedelta(hours=1), START + timedelta(hours=2))
    return Verify(installation.database, "test").look(scope, clock=lambda: installation.now)


def test_verify_finds_an_output_that_is_wrong(installation: Installation) -> None:
    publish(installation, ALL, EACH)
    two_targets(installation)
    installation.now = START + timedelta(days=2)
    installation.roll_up()
    clean = verified(installation)
    assert (clean.mismatches, clean.rollups > 0) == ((), True)
    spoil = text(
        "UPDATE aggregator.rollup SET sum[1] = sum[1] + 1, slots[1] = slots[1] + 1 WHERE slots IS NOT NULL"
        " AND bucket = :start AND tier_id = (SELECT id FROM aggregator.tiers WHERE name = '1m')"
    )
    installation.database.run(lambda connection: connection.execute(spoil, {"start": START}))
    found = {(one.metric, one.tier, one.column) for one in verified(installation).mismatches}
    assert {("all:g", "1m", "sum"), ("all:g", "1m", "slots"), ("each:g", "1m", "sum")} <= found


def test_recompute_of_a_rule_brings_back_what_is_right(installation: Installation) -> None:
    publish(installation, ALL)
    two_targets(installation)
    installation.now = START + timedelta(days=2)
    installation.roll_up()
    right = outputs(installation, "metrics_1d", "all:g"), outputs(installation, "metrics_1m", "all:g")
    spoil = update(tables.rollup).where(tables.rollup.c.slots.is_not(None)).values(sum=text("array[7.0]"))
    installation.database.run(lambda connection: connection.execute(spoil))
    selector = parse_selector("all:g")

    def request(connection: Connection) -> tuple[recompute.Request, recompute.Scope]:
        scope = recompute.scope_of(connection, selector)
        asked = {"since": START - timedelta(hours=1), "until": START + timedelta(hours=1)}
        return recompute.begin(connection, str(selector), **asked, now=installation.now), scope

    asked, scope = installation.database.run(request)
    recomputation = Recomputation(installation.database, installation.rollup, lambda: installation.now)
    recomputation.run(asked, scope, report=lambda _: None)
    assert (outputs(installation, "metrics_1d", "all:g"), outputs(installation, "metrics_1m", "all:g")) == right


@pytest.mark.parametrize("tier_name", ["1m", "1h"])
def test_explain_names_the_rule_and_its_inputs(installation: Installation, tier_name: str) -> None:
    publish(installation, ALL)
    two_targets(installation)
    installation.now = START + timedelta(days=2)
    installation.roll_up()

    def look(connection: Connection) -> dict[str, object]:
        (tier,) = (one for one in catalog.read_installation(connection).tiers if one.name == tier_name)
        (series,) = find_series(connection, parse_selector("all:g"), limit=2)
        found = explain(gather(connection, series, tier=tier, at=START, now=installation.now))
        assert not found.is_contradicted
        assert [check.is_exact for check in found.checks] == [True]
        return document(found)

    told = installation.database.run(look)
    assert told["rule"] == {
        "name": "all:g", "select": "g", "by": [], "without": [], "active": True, "series": 2, "shards": 1, "present": 2,
    }  # fmt: skip
    assert told["is_final"]
    assert told["completeness"] is not None
