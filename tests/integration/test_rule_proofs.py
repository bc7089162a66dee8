"""Outputs of rules are verified, recomputed and explained as other series are."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import text, update

from aggregator.config.selector import parse_selector
from aggregator.serving.explanation import explain
from aggregator.serving.explanation_document import document
from aggregator.stages.verify import Range, Verify
from aggregator.stages.verify.report import Report
from aggregator.storage import catalog, recompute, tables
from aggregator.storage.engine import Connection
from aggregator.storage.explain import find_series
from aggregator.storage.explain_facts import gather
from aggregator.tasks.recomputation import Recomputation
from tests.installation import Installation
from tests.rule_steps import ALL, EACH, START, outputs, publish, two_targets


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
