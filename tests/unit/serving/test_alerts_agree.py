"""What the alert rules call stale, late or gone is what `aggregator status` calls so, to the second."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from aggregator.serving.status import Server, Status
from aggregator.storage.health_verify import Verification
from tests.alerts import alerts
from tests.healthy import SERVERS, WHOLE, samples
from tests.unit.serving.test_status import NODE, NOW, SOURCE, SUMMARY, TIER, ago
from tests.unit.test_alert_rules import promtool

EXPRESSIONS = {alert.name: alert.expression for alert in alerts()}
EPOCH_SECONDS = f"{NOW.timestamp():.0f}s"
SOON = {name: NOW + timedelta(seconds=seconds) for name, seconds in (("enough", 3_600), ("short", 3_599))}


@dataclass(frozen=True)
class Case:
    """An alert, whether it is due at NOW, what the status says then, and what differs from all being well."""

    alert: str
    words: str
    changes: dict[str, Any]
    is_wrong: bool


def pair(alert: str, words: str, well: dict[str, Any], wrong: dict[str, Any]) -> list[Case]:
    """The last second in which all is well, and the next one."""
    return [Case(alert, words, well, is_wrong=False), Case(alert, words, wrong, is_wrong=True)]


def source(**changes: Any) -> dict[str, Any]:
    changed = replace(SOURCE, **changes)
    return {"sources": (changed,), "published_at": changed.published_at}


def beside(seconds: float) -> dict[str, Any]:
    return {"nodes": (NODE, replace(NODE, name="web2", last_seen=ago(seconds)))}


CASES = [
    *pair("AggregatorSourceStale", "source node", source(last_success=ago(45)), source(last_success=ago(46))),
    *pair(
        "AggregatorSourceStale",
        "source node",
        source(last_success=ago(30), interval_seconds=1),
        source(last_success=ago(31), interval_seconds=1),
    ),
    *pair(
        "AggregatorSourceStale",
        "source node",
        source(last_success=None, published_at=ago(45)),
        source(last_success=None, published_at=ago(46)),
    ),
    Case(
        "AggregatorSourceStale",
        "source node",
        source(last_success=None, published_at=ago(99), targets=0, up=0),
        is_wrong=False,
    ),
    *pair(
        "AggregatorTierNotFresh",
        "tier 1m",
        {"tiers": (replace(TIER, newest_bucket=ago(240)),)},
        {"tiers": (replace(TIER, newest_bucket=ago(241)),)},
    ),
    *pair(
        "AggregatorRollupsLate",
        "tier 1m",
        {"tiers": (replace(TIER, lag_seconds=120, live_rows=1),)},
        {"tiers": (replace(TIER, lag_seconds=121, live_rows=1),)},
    ),
    *pair(
        "AggregatorSummaryStale",
        "summary busiest",
        {"summaries": (replace(SUMMARY, computed_at=ago(90)),)},
        {"summaries": (replace(SUMMARY, computed_at=ago(91)),)},
    ),
    *pair(
        "AggregatorSummaryStale",
        "summary busiest",
        {"summaries": (replace(SUMMARY, computed_at=ago(60), refresh_seconds=5),)},
        {"summaries": (replace(SUMMARY, computed_at=ago(61), refresh_seconds=5),)},
    ),
    *pair(
        "AggregatorSummaryStale",
        "summary busiest",
        {"summaries": (replace(SUMMARY, computed_at=None),), "published_at": ago(150)},
        {"summaries": (replace(SUMMARY, computed_at=None),), "published_at": ago(151)},
    ),
    *pair("AggregatorBeatSilent", "beat has woken nothing", {"last_wake": ago(60)}, {"last_wake": ago(61)}),
    *pair(
        "AggregatorBeatSilent",
        "beat has woken nothing",
        {"last_wake": None, "published_at": ago(60)},
        {"last_wake": None, "published_at": ago(61)},
    ),
    *pair("AggregatorNodeGone", "node web2", beside(90), beside(91)),
    *pair("AggregatorNodeGone", "node web2", beside(86_401), beside(86_400)),
    *pair(
        "AggregatorNoWorker",
        "no worker is alive",
        {"nodes": (replace(NODE, last_seen=ago(90)),)},
        {"nodes": (replace(NODE, last_seen=ago(91)),)},
    ),
    *pair(
        "AggregatorPartitionsMissing",
        "no partition",
        {"partitions_end": {"sample_frame": SOON["enough"]}},
        {"partitions_end": {"sample_frame": SOON["short"]}},
    ),
    *pair(
        "AggregatorVerifyMismatch",
        "verification of",
        {"verification": Verification(ago(60), 9, None)},
        {"verification": Verification(ago(60), 9, "1 mismatch")},
    ),
]


def _look(case: Case) -> dict[str, Any]:
    """One test of promtool's: the series of this status, and whether the alert's expression has any."""
    status = Status(NOW, SERVERS, replace(WHOLE, **case.changes))
    assert any(case.words in problem for problem in status.problems()) is case.is_wrong, case
    return {
        "name": case.alert,
        "interval": EPOCH_SECONDS,
        "input_series": [
            {"series": f"{name}{{{_labels(labels)}}}", "values": f"{value!r} {value!r}"}
            for name, labels, value in samples(status)
        ],
        "promql_expr_test": [
            {
                "expr": f"(count({EXPRESSIONS[case.alert]}) > bool 0) or vector(0)",
                "eval_time": EPOCH_SECONDS,
                "exp_samples": [{"labels": "{}", "value": int(case.is_wrong)}],
            }
        ],
    }


def _labels(labels: dict[str, str]) -> str:
    return ", ".join(f"{name}={json.dumps(value)}" for name, value in labels.items())


def test_status_and_alerts_agree_to_the_second(tmp_path: Path) -> None:
    document = {"evaluation_interval": EPOCH_SECONDS, "tests": [_look(case) for case in CASES]}
    path = tmp_path / "agreement.yml"
    path.write_text(json.dumps(document))  # which is YAML as well
    promtool("test", "rules", path)


@pytest.mark.parametrize("server", list(SERVERS))
def test_a_server_that_is_down_is_a_metric_of_its_alert(server: str) -> None:
    down = SERVERS | {server: Server(is_up=False, error="away")}
    values = {name: value for name, _, value in samples(Status(NOW, down, None))}
    assert values[f"aggregator_{server}_up"] == 0
    assert f"aggregator_{server}_up == 0" in EXPRESSIONS[f"Aggregator{server.title()}Down"]


def test_no_alert_is_due_while_all_is_well() -> None:
    assert Status(NOW, SERVERS, WHOLE).problems() == []
