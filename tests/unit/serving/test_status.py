"""What is stale, and what is said of it."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from aggregator.serving.status import Server, Status, is_source_stale, is_summary_stale, is_tier_stale, plain
from aggregator.storage.health import Health, NodeHealth, SummaryHealth
from aggregator.storage.health_sources import SourceHealth, TargetHealth
from aggregator.storage.health_tiers import TierHealth
from aggregator.storage.held_partitions import HeldPartitions
from aggregator.storage.quarantine import Job, Losses

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
UP = {"database": Server(is_up=True), "broker": Server(None), "cache": Server(None)}


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


SOURCE = SourceHealth("node", "prometheus", 15, ago(9_000), 2, 2, 0, 10, ago(10), 0, None, None)
TIER = TierHealth("1m", 60, ago(90), 0, 0, 0, 0)
SUMMARY = SummaryHealth("busiest", 30, ago(20), 7, None, None)
NODE = NodeHealth("web1", ago(10), "abc", "0.1")
WELL = Health(
    published_at=ago(9_000),
    config_hash="abc",
    last_wake=ago(5),
    first_slot=ago(8_000),
    sources=(SOURCE,),
    targets=(),
    tiers=(TIER,),
    summaries=(SUMMARY,),
    nodes=(NODE,),
    glance=(),
    slots_missed={},
    partitions_end={"sample_frame": NOW + timedelta(days=2)},
    table_bytes={},
)


def problems(**changes: object) -> list[str]:
    return Status(NOW, UP, replace(WELL, **changes)).problems()  # type: ignore[arg-type] # a test's changes


def test_a_well_installation_has_no_problem() -> None:
    assert problems() == []
    assert Status(NOW, UP, WELL).document()["ok"] is True


def test_a_source_is_stale_after_three_intervals_and_at_least_thirty_seconds() -> None:
    assert not is_source_stale(replace(SOURCE, last_success=ago(45)), now=NOW)
    assert is_source_stale(replace(SOURCE, last_success=ago(46)), now=NOW)
    assert not is_source_stale(replace(SOURCE, interval_seconds=1, last_success=ago(30)), now=NOW)
    assert is_source_stale(replace(SOURCE, interval_seconds=1, last_success=ago(31)), now=NOW)


def test_a_source_that_never_succeeded_is_stale_only_once_it_should_have() -> None:
    assert not is_source_stale(replace(SOURCE, last_success=None, published_at=ago(40)), now=NOW)
    assert is_source_stale(replace(SOURCE, last_success=None, published_at=ago(50)), now=NOW)


def test_a_source_that_discovers_no_target_is_not_stale() -> None:
    assert not is_source_stale(replace(SOURCE, last_success=None, targets=0, up=0), now=NOW)


def test_a_tier_is_stale_when_it_lags_or_when_nothing_new_arrives() -> None:
    assert not is_tier_stale(TIER, first_slot=ago(8_000), now=NOW)
    assert is_tier_stale(replace(TIER, lag_seconds=121), first_slot=ago(8_000), now=NOW)
    assert is_tier_stale(replace(TIER, newest_bucket=ago(241)), first_slot=ago(8_000), now=NOW)


def test_a_tier_without_a_bucket_is_stale_only_once_it_should_have_one() -> None:
    empty = replace(TIER, newest_bucket=None)
    assert not is_tier_stale(empty, first_slot=None, now=NOW)
    assert not is_tier_stale(empty, first_slot=ago(200), now=NOW)
    assert is_tier_stale(empty, first_slot=ago(300), now=NOW)


def test_a_summary_is_stale_after_three_refreshes() -> None:
    assert not is_summary_stale(replace(SUMMARY, computed_at=ago(90)), published_at=None, now=NOW)
    assert is_summary_stale(replace(SUMMARY, computed_at=ago(91)), published_at=None, now=NOW)
    assert not is_summary_stale(replace(SUMMARY, computed_at=None), published_at=ago(100), now=NOW)
    assert is_summary_stale(replace(SUMMARY, computed_at=None), published_at=ago(151), now=NOW)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"last_wake": ago(61)}, "beat has woken nothing for 61 s"),
        ({"last_wake": None}, "beat has woken nothing for 2 h"),
        ({"nodes": ()}, "no worker is alive"),
        ({"nodes": (NODE, replace(NODE, name="web2", last_seen=ago(91)))}, "node web2 was last seen 91 s ago"),
        ({"partitions_end": {"rollup_1m": None}}, "table rollup_1m has no partition"),
        ({"sources": (replace(SOURCE, last_success=ago(60), last_error="refused"),)}, "node is stale: .*refused"),
        ({"published_at": None}, "nothing was published"),
    ],
)
def test_each_fault_is_said_with_its_remedy(changes: dict[str, object], words: str) -> None:
    (problem,) = problems(**changes)
    assert re.search(words, problem)


def test_a_node_that_has_been_away_for_days_was_taken_away_on_purpose() -> None:
    assert problems(nodes=(NODE, replace(NODE, name="old", last_seen=ago(100_000)))) == []


def test_targets_that_are_down_are_named_up_to_three() -> None:
    down = [TargetHealth(1, "node", "node", f"h{i}:1", False, ago(60), "refused", ago(1)) for i in range(5)]  # noqa: FBT003 - is_up
    (problem,) = problems(sources=(replace(SOURCE, targets=9, up=4, down=5),), targets=tuple(down))
    assert problem.startswith("source node: 5 of 9 targets are down (h0:1: refused; h1:1: refused; h2:1: refused")
    assert "and 2 more" in problem


def test_what_holds_partitions_is_listed_and_is_no_problem() -> None:
    reason = "an import or a recomputation wrote to it at 2026-03-01T12:00Z"
    held = HeldPartitions("sample_frame", "backfill", 365, "sample_frame_20250301", reason, ago(600))
    status = Status(NOW, UP, replace(WELL, partitions_held=(held,)))
    assert status.problems() == []
    (listed,) = status.document()["partitions_held"]
    assert (listed["table"], listed["cause"], listed["partitions"]) == ("sample_frame", "backfill", 365)
    assert (listed["oldest"], listed["reason"]) == ("sample_frame_20250301", reason)


def test_without_a_database_the_status_still_has_its_shape() -> None:
    document = Status(NOW, {**UP, "database": Server(is_up=False, error="away")}, None).document()
    assert document["problems"] == ["away"]
    assert document["servers"]["database"] == {"up": False}
    assert document["sources"] == document["tiers"] == document["glance"] == []


def test_what_json_cannot_hold_becomes_what_it_can() -> None:
    assert plain({"a": [NOW, float("nan"), float("-inf"), None, 1.5]}) == {
        "a": ["2026-03-01T12:00:00.000Z", None, None, None, 1.5]
    }


def test_a_quarantined_job_is_a_problem_that_says_why_and_until_when() -> None:
    lost = Losses(Job("collect", "node:7"), 4, "signal 9 (SIGKILL)", ago(900), ago(60), ago(300), ago(-540))
    (problem,) = problems(quarantined=(lost,))
    assert problem.startswith("job collect:node:7 is quarantined: it lost its process 4 times in a row")
    assert "signal 9 (SIGKILL)" in problem
    assert "2026-03-01T12:09:00.000Z" in problem
    document = Status(NOW, UP, replace(WELL, quarantined=(lost,))).document()
    assert document["quarantined"][0]["name"] == "collect:node:7"
