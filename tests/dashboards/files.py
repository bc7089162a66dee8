"""The dashboards that are shipped, and every query in them, ready to be sent."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.dashboards.macros import Span, expand
from tests.dashboards.variables import Value, filled

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "grafana"
_LABEL = re.compile(r"\$\{__field\.labels\.(\w+)\}|\{\{(\w+)\}\}")
NAMES = tuple(sorted(path.stem for path in (FOLDER / "dashboards").glob("*.json")))


@dataclass(frozen=True)
class Query:
    """One query of a dashboard: whose it is (`CPU busy`), its text, and what Grafana goes by."""

    owner: str
    kind: str
    text: str
    format: str
    shortest: str = "1m"
    points: float = 400
    name: str = ""

    @property
    def labels(self) -> set[str]:
        """The labels that its series are named by, in Grafana's way for a panel or for Prometheus."""
        return {one or other for one, other in _LABEL.findall(self.name)}

    def sql(self, values: Mapping[str, Value], start: datetime, finish: datetime) -> str:
        """The SQL that Grafana sends for this span."""
        span = Span.of(start, finish, shortest=self.shortest, points=self.points)
        return expand(filled(self.text, values), span)


def load(name: str) -> dict[str, Any]:
    """A dashboard by its file's name without the suffix."""
    loaded: dict[str, Any] = json.loads((FOLDER / "dashboards" / f"{name}.json").read_text())
    return loaded


def panels(dashboard: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All panels that are no rows."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def queries(name: str) -> list[Query]:
    """Every query of a dashboard: of its variables, its annotations and its panels."""
    return [*_queries(load(name))]


def _queries(dashboard: Mapping[str, Any]) -> Iterator[Query]:
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield Query(f"${variable['name']}", "variable", variable["query"], "table")
    for annotation in dashboard["annotations"]["list"]:
        target = annotation["target"]
        yield Query(annotation["name"], "annotation", target["rawSql"], target["format"])
    for panel in panels(dashboard):
        for target in panel["targets"]:
            yield Query(
                panel["title"],
                "panel",
                target.get("rawSql", target.get("expr")),
                target["format"],
                panel.get("interval", "1s"),
                panel["maxDataPoints"],
                target.get("legendFormat", panel["fieldConfig"]["defaults"].get("displayName", "")),
            )


def host_sql(instances: tuple[str, ...], *, job: str, start: datetime, finish: datetime) -> dict[str, str]:
    """All SQL of the dashboard *Host* for a span, by panel; no instance means all of them."""
    instance = Value(instances, is_multiple=True, all_text="" if instances else ".*")
    return {
        query.owner: query.sql({"job": Value(job), "instance": instance}, start, finish) for query in queries("host")
    }
