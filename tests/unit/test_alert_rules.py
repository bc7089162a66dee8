"""The alert rules: accepted, tested for firing and for not firing, each with a runbook, on metrics that exist."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.alerts import OF_PROMETHEUS, RULE_TESTS, RULES, RUNBOOKS, Alert, alerts, node_metric_names, read
from tests.dashboards.promql import metrics
from tests.healthy import installation_metric_names

ALERTS = alerts()
SEVERITIES = {"critical", "warning"}
by_name = pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)


def promtool(*arguments: str | Path) -> str:
    found = shutil.which("promtool")
    if found is None:
        stop = pytest.fail if os.environ.get("AGGREGATOR_TEST_REQUIRE_SERVERS") else pytest.skip
        stop("promtool is not installed")
    done = subprocess.run([str(found), *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def expectations(name: str) -> list[list[str]]:
    """For each look at an alert in the tests of the rules: the series that fire then."""
    tests = [test for path in RULE_TESTS for test in read(path)["tests"]]
    looks = [look for test in tests for look in test["promql_expr_test"] if f'alertname="{name}"' in look["expr"]]
    return [[sample["labels"] for sample in look["exp_samples"]] for look in looks]


def test_promtool_accepts_every_rule() -> None:
    said = promtool("check", "rules", *RULES)
    assert sum(int(count) for count in re.findall(r"SUCCESS: (\d+) rules found", said)) == len(ALERTS)


def test_every_alert_fires_when_it_should_and_not_otherwise() -> None:
    assert promtool("test", "rules", *RULE_TESTS).count("SUCCESS") == len(RULE_TESTS)


@by_name
def test_an_alert_is_tested_for_firing_and_for_not_firing(alert: Alert) -> None:
    looks = expectations(alert.name)
    assert [] in looks
    assert any(looks)


@by_name
def test_an_alert_says_how_bad_it_is_what_it_means_and_where_to_read_on(alert: Alert) -> None:
    assert alert.name.startswith("Aggregator")
    assert set(alert.annotations) == {"summary", "description", "runbook_url"}
    assert alert.labels["severity"] in SEVERITIES
    assert alert.annotations["runbook_url"] == f"deploy/runbooks/{alert.name}.md"
    assert "\n" not in alert.annotations["description"]


@by_name
def test_the_texts_of_an_alert_name_only_labels_that_it_has(alert: Alert) -> None:
    named = set(re.findall(r"\$labels\.(\w+)", " ".join(alert.annotations.values())))
    firing = [series for look in expectations(alert.name) for series in look]
    # Where Prometheus is told of no process at all, and slots of a stage without a source, a label is empty.
    assert all(any(f'{label}="' in series for series in firing) for label in named)


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    assert {path.stem for path in RUNBOOKS.iterdir()} == {alert.name for alert in ALERTS}
    assert len({alert.name for alert in ALERTS}) == len(ALERTS)


def test_every_metric_of_a_rule_is_exported() -> None:
    exported = node_metric_names() | installation_metric_names() | OF_PROMETHEUS
    named = {name for alert in ALERTS for name in metrics(alert.expression)}
    assert named <= exported


def test_operations_lists_every_alert_with_its_severity_and_runbook() -> None:
    text = (RUNBOOKS.parents[1] / "docs" / "operations.md").read_text()
    listed = re.findall(r"^\| \[(\w+)\]\(\.\./deploy/runbooks/(\w+)\.md\) \| (\w+) \|", text, re.MULTILINE)
    assert listed == [(alert.name, alert.name, alert.labels["severity"]) for alert in ALERTS]


def test_no_rule_takes_a_counter_that_may_fall_for_one_that_begins_anew() -> None:
    for alert in ALERTS:
        assert not re.search(r"(rate|increase)\(aggregator_slots_missed_total", alert.expression)


@pytest.mark.parametrize("path", sorted(RULES[0].parents[1].glob("*.yml")), ids=lambda path: path.name)
def test_prometheus_is_told_of_the_rules(path: Path) -> None:
    assert read(path)["rule_files"] == ["rules/*.yml"]
