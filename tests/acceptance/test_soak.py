"""The soak itself, for seconds: what `make soak` does for an hour."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from tests.acceptance.faults import brokers, processes
from tests.acceptance.soak.run import Plan, soak, summary

pytestmark = pytest.mark.acceptance

FAULTS = (brokers.FLUSHED, processes.CHILDREN_KILLED)


def test_a_soak_of_seconds_finds_nothing_wrong_and_writes_what_it_saw(tmp_path: Path) -> None:
    said: list[str] = []
    plan = Plan(timedelta(seconds=24), timedelta(seconds=8), seed=1, folder=tmp_path / "soak", faults=FAULTS)
    result = soak(plan, say=said.append)
    assert result.is_right, summary(result)
    assert {one.fault for one in result.endured} == set(FAULTS)
    assert len(said) == len(result.endured)
    assert result.check is not None
    assert result.check.buckets["5s"] > 0
    written = (plan.folder / "summary.md").read_text()
    assert "seed 1" in written
    assert "memory MB: child" in written
    assert (plan.folder / "faults.jsonl").read_text().count("\n") == len(result.endured)
