"""Only modules that are known for it name the tables of open rows: whoever else reads those would see half of them."""

from __future__ import annotations

import re
from pathlib import Path

import aggregator

PACKAGE = Path(aggregator.__file__).parent
OPEN_TABLE = re.compile(
    r"tables\.(rollup|sample_frame)\b|(aggregator|\{schema\}|\{SCHEMA\})\.\"?(rollup|sample_frame)\b"
)
#: What it does with them.
KNOWN = {
    "explain.py": "reads both",
    "explain_samples.py": "reads both",
    "frame_rows.py": "encodes and decodes open frames",
    "frames.py": "holds partitions; reads and writes both through sample_forms",
    "health_glance.py": "reads frames of the last minutes, which are never sealed",
    "open_frames.py": "reads and writes open frames",
    "plan_tiers.py": "reads both",
    "publish.py": "asks both",
    "recompute_frames.py": "reads both",
    "retention.py": "locks",
    "rollup_rows.py": "reads and writes open rows",
    "rule_inputs.py": "reads both",
    "sample_sealing.py": "looks for what is open",
    "sample_view.py": "reads both",
    "sealing.py": "looks for what is open",
    "stored_buckets.py": "reads both",
    "sketch_views.py": "reads both",
    "views.py": "reads both",
}


def test_open_rows_are_named_only_where_sealed_ones_are_thought_of() -> None:
    found = {path.name for path in (PACKAGE / "storage").glob("*.py") if OPEN_TABLE.search(path.read_text())}
    assert found == set(KNOWN)


def test_no_other_package_names_a_table() -> None:
    named = re.compile(r"FROM aggregator\.(rollup|sample_frame|sealed|clock)\b")
    others = (path for path in PACKAGE.rglob("*.py") if path.parent.name != "storage")
    assert [path for path in others if named.search(path.read_text())] == []
