"""The alert rules and runbooks that are shipped, and what a service's own metrics are called."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from aggregator import telemetry

ROOT = Path(__file__).resolve().parents[1]
PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES = sorted((PROMETHEUS / "rules").glob("*.yml"))
RULE_TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))
RUNBOOKS = ROOT / "deploy" / "runbooks"
#: What Prometheus itself says of a target.
OF_PROMETHEUS = frozenset({"up"})
_FENCED = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_QUOTED = re.compile(r"`([^`\n]+(?:\n  [^`\n]+)?)`")


@dataclass(frozen=True)
class Alert:
    """One rule."""

    name: str
    expression: str
    seconds: int
    labels: dict[str, str]
    annotations: dict[str, str]


def read(path: Path) -> Any:
    """A YAML file; the test skips where there is nothing to read it with."""
    return pytest.importorskip("yaml").safe_load(path.read_text())


def alerts() -> list[Alert]:
    """Every alert that is shipped."""
    rules = [rule for path in RULES for group in read(path)["groups"] for rule in group["rules"]]
    return [
        Alert(rule["alert"], rule["expr"], _seconds(rule.get("for", "0s")), rule["labels"], rule["annotations"])
        for rule in rules
    ]


def _seconds(length: str) -> int:
    return int(length[:-1]) * {"s": 1, "m": 60, "h": 3_600}[length[-1]]


def blocks(runbook: Path, language: str) -> list[str]:
    """The examples of a language in a runbook."""
    return [text for name, text in _FENCED.findall(runbook.read_text()) if name == language]


def commands(runbook: Path) -> list[list[str]]:
    """The words of each command line of a runbook that calls the service or Celery."""
    text = runbook.read_text()
    lines = [line for block in blocks(runbook, "sh") for line in block.splitlines()]
    lines += _QUOTED.findall(re.sub(_FENCED, "", text))
    return [line.split() for line in lines if re.match(r"(aggregator|celery) ", line)]


def node_metric_names() -> set[str]:
    """The names of what a node exports, as they stand in a query."""
    names = {f"{telemetry.PREFIX}_metric_files_quarantined_total"}
    for metric in telemetry.METRICS:
        endings = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
        names |= {f"{telemetry.PREFIX}_{metric.name}{ending}" for ending in endings}
    return names


def quickened(rules: str, *, divisor: int, shortest: int, thresholds: dict[str, tuple[int, int]]) -> str:
    """Rules that do not wait so long: every `for` is divided, and of the alerts that are named one number is replaced.

    `shortest`: no `for` gets shorter than so many seconds. Numbers stay otherwise: they are the rhythm of the service
    itself, which a healthy one has to keep. Raises AssertionError where an alert has not that number, so that nobody
    thinks to test what is shipped and does not.
    """
    parts = re.split(r"(?=^      - alert: )", rules, flags=re.MULTILINE)
    for place, part in enumerate(parts):
        name = re.match(r"      - alert: (\w+)", part)
        if name is not None and name[1] in thresholds:
            number, quick = thresholds[name[1]]
            expression, labels, rest = part.partition("        labels:")
            changed, count = re.subn(rf"(?<![\w.]){number}(?![\w.])", str(quick), expression)
            assert count == 1, name[1]
            parts[place] = changed + labels + rest
    return re.sub(
        r"^(\s+for: )(\w+)$",
        lambda match: f"{match[1]}{max(shortest, _seconds(match[2]) // divisor)}s",
        "".join(parts),
        flags=re.MULTILINE,
    )
