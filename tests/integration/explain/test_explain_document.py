"""What docs/explain.md shows is what the command prints, and JSON says the same."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.explained import START, Typed, explained

PAGE = Path(__file__).parents[3] / "docs" / "explain.md"
SELECTOR = 'requests_total{instance="t0"}'
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z")


def test_the_page_shows_what_the_command_prints(past: str, typed: Typed) -> None:
    code, out, _ = typed(past, SELECTOR, START, "5m")
    printed = "\n".join(line.rstrip() for line in out.strip().splitlines())
    assert code == 0
    assert f"```\n{printed}\n```" in PAGE.read_text()


def test_json_has_all_that_the_tables_have(past: str, typed: Typed) -> None:
    _, out, _ = typed(past, SELECTOR, START, "5m")
    found = explained(typed, past, SELECTOR, START, "5m")
    assert set(INSTANT.findall(out)) <= set(INSTANT.findall(json.dumps(found)))
    lines = [line.split() for line in out.splitlines()]
    for sample in found["samples"][1:]:
        cells = [f"{sample[name]:g}" for name in ("value", "delta", "seconds")]
        assert [sample["at"], *cells, sample["received_at"], *sample["flags"]] in lines
    for rollup in found["built_from"][0]["rollups"]:
        names = ("slots_due", "count", "first", "last", "increase", "covered")
        assert [rollup["bucket"], *(f"{rollup[name]:g}" for name in names)] in lines
    for one in found["collections"]:
        remark = [f"claimed {one['claims']} times"] * one["taken_over"] + ["by hand"] * one["by_hand"]
        cells = [one["outcome"], one["node"], one["started_at"], f"{one['duration_seconds']:.3f}", str(one["samples"])]
        assert [one["slot"], *cells, *" ".join(remark).split()] in lines
    for ran in found["runs"]:
        assert [ran["started_at"], ran["finished_at"], ran["node"], str(ran["rows"])] in lines
    assert {one["source"]: one["count"] for one in found["made_of"]} == {"1m": 19, "samples": 19}
    assert [f"{one['from']}: {one['is_exact']}" for one in found["checks"]] == ["samples: True", "1m: True"]
