"""Dashboards as values, and the JSON that Grafana imports: a panel is declared in a few lines, its place follows.

Only what Grafana's published schema allows is written: it takes no override with a plain value, so that queries name
their series by labels (`displayName`) and turn signs themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

#: Grafana of 11.0; newer ones bring it up to date as they read it.
SCHEMA_VERSION = 39
COLUMNS = 24
ROW_HEIGHT = 1


@dataclass(frozen=True)
class DataSource:
    """A kind of data source, the variable that picks one, and the provisioned one (`provisioning/datasources`)."""

    kind: str
    uid: str
    name: str

    @property
    def reference(self) -> Json:
        """How a panel refers to it."""
        return {"type": self.kind, "uid": "${datasource}"}

    def target(self, ref_id: str, query: Query) -> Json:
        """A query as this kind of data source has it."""
        common = {"refId": ref_id, "datasource": self.reference}
        if self.kind == "prometheus":
            kind = {"instant": True, "range": False} if query.format == "table" else {"instant": False, "range": True}
            legend = {"legendFormat": query.legend} if query.legend else {}
            return {**common, "expr": query.text, "format": query.format, "editorMode": "code", **kind, **legend}
        return {**common, "rawSql": query.text, "format": query.format, "rawQuery": True, "editorMode": "code"}


POSTGRES = DataSource("grafana-postgresql-datasource", "aggregator", "Aggregator")
PROMETHEUS = DataSource("prometheus", "aggregator-prometheus", "Prometheus of the aggregator")


@dataclass(frozen=True)
class Query:
    """SQL or PromQL. `format`: `time_series`, `table` or, of Prometheus' histograms, `heatmap`."""

    text: str
    format: str = "time_series"
    legend: str = ""


@dataclass(frozen=True)
class Variable:
    """A variable that is asked of the data source (`query`), chosen from a list (`custom`) or typed (`textbox`)."""

    name: str
    label: str
    description: str
    type: str
    query: str
    is_multiple: bool = False
    all_value: str = ""

    def json(self, source: DataSource) -> Json:
        """The variable as Grafana has it. All is left to `all_value`, which goes into the query as it stands."""
        result: Json = {
            "type": self.type,
            "name": self.name,
            "label": self.label,
            "description": self.description,
            "query": self.query,
        }
        if self.type == "query":
            # 2: asked again when the time range changes, so that what has come since is there.
            result |= {"datasource": source.reference, "definition": self.query, "refresh": 2, "sort": 1}
        if self.type in ("query", "custom"):
            result |= {"multi": self.is_multiple, "includeAll": bool(self.all_value)}
        if self.all_value:
            result["allValue"] = self.all_value
        return result


@dataclass(frozen=True)
class Look:
    """How values are shown. `steps`: thresholds, from the colour below the first on; `min` and `max` in the unit."""

    unit: str = "short"
    min: float | None = None
    max: float | None = None
    decimals: int | None = None
    steps: Sequence[tuple[float | None, str]] = ()
    is_stacked: bool = False
    no_value: str = ""


@dataclass(frozen=True)
class Panel:
    """One panel. `name`: what its series are called, from labels. `interval`: the shortest that Grafana may ask for."""

    kind: str
    title: str
    description: str
    queries: Sequence[Query]
    look: Look = field(default_factory=Look)
    name: str = ""
    width: int = 12
    height: int = 8
    interval: str = "1m"
    max_points: int = 400
    options: Json = field(default_factory=dict)

    def json(self, source: DataSource, number: int, *, x: int, y: int) -> Json:
        """The panel at its place."""
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": source.reference,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            **({"interval": self.interval} if self.interval else {}),
            "maxDataPoints": self.max_points,
            "targets": [source.target(chr(ord("A") + place), query) for place, query in enumerate(self.queries)],
            "fieldConfig": {"defaults": self._defaults(), "overrides": []},
            "options": {**_OPTIONS[self.kind], **self.options},
        }

    def _defaults(self) -> Json:
        look = self.look
        steps = look.steps or ((None, "green" if self.kind in ("stat", "gauge") else "text"),)
        given = {"min": look.min, "max": look.max, "decimals": look.decimals}
        result: Json = {"unit": look.unit, **{name: value for name, value in given.items() if value is not None}}
        result["color"] = {"mode": "palette-classic" if self.kind == "timeseries" else "thresholds"}
        result["thresholds"] = {
            "mode": "absolute",
            "steps": [{"value": value, "color": color} for value, color in steps],
        }
        if self.name:
            result["displayName"] = self.name
        if look.no_value:
            result["noValue"] = look.no_value
        if self.kind == "timeseries":
            result["custom"] = _lines(look)
        return result


def _lines(look: Look) -> Json:
    """Lines with gaps where there is nothing; filled where they are stacked; thresholds drawn where there are any."""
    return {
        "drawStyle": "line",
        "lineInterpolation": "linear",
        "lineWidth": 1,
        "fillOpacity": 60 if look.is_stacked else 10,
        "showPoints": "auto",
        "spanNulls": False,
        "stacking": {"mode": "normal" if look.is_stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "dashed" if look.steps else "off"},
    }


_LAST = {"calcs": ["lastNotNull"], "fields": "", "values": False}
_OPTIONS: dict[str, Json] = {
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {"reduceOptions": _LAST, "colorMode": "value", "graphMode": "area", "textMode": "auto"},
    "gauge": {"reduceOptions": _LAST, "showThresholdLabels": False, "showThresholdMarkers": True},
    "table": {"showHeader": True, "cellHeight": "sm"},
    "heatmap": {"calculate": False, "yAxis": {"unit": "s"}, "legend": {"show": True}},
}


@dataclass(frozen=True)
class Row:
    """A heading and the panels under it, from left to right and then down."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Annotation:
    """Marks over all panels; `sql` gives `time`, `timeend` and `text`."""

    name: str
    sql: str
    color: str

    def json(self, source: DataSource) -> Json:
        """The annotation as Grafana has it."""
        return {
            "name": self.name,
            "enable": True,
            "iconColor": self.color,
            "datasource": source.reference,
            "target": source.target("Anno", Query(self.sql, "table")),
        }


@dataclass(frozen=True)
class Dashboard:
    """A dashboard; `uid` is its address and stays."""

    uid: str
    title: str
    description: str
    source: DataSource
    variables: Sequence[Variable]
    rows: Sequence[Row]
    annotations: Sequence[Annotation] = ()
    start: str = "now-3h"
    refresh: str = "1m"

    def json(self) -> Json:
        """What Grafana imports, and what the provisioning provides."""
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": ["aggregator"],
            "schemaVersion": SCHEMA_VERSION,
            "editable": True,
            "graphTooltip": 1,
            "time": {"from": self.start, "to": "now"},
            "refresh": self.refresh,
            "timezone": "browser",
            "templating": {
                "list": [self._chosen_source(), *(one.json(self.source) for one in self.variables)],
            },
            "annotations": {"list": [one.json(self.source) for one in self.annotations]},
            "links": [_LINK],
            "panels": list(self._placed()),
        }

    def _chosen_source(self) -> Json:
        return {
            "type": "datasource",
            "name": "datasource",
            "label": "Data source",
            "query": self.source.kind,
            "current": {"text": self.source.name, "value": self.source.uid},
            "refresh": 1,
        }

    def _placed(self) -> Iterator[Json]:
        number, y = 0, 0
        for row in self.rows:
            number += 1
            yield _heading(row.title, number, y=y)
            x, y, height = 0, y + ROW_HEIGHT, 0
            for panel in row.panels:
                if x + panel.width > COLUMNS:
                    x, y, height = 0, y + height, 0
                number += 1
                yield panel.json(self.source, number, x=x, y=y)
                x, height = x + panel.width, max(height, panel.height)
            y += height


def _heading(title: str, number: int, *, y: int) -> Json:
    place = {"x": 0, "y": y, "w": COLUMNS, "h": ROW_HEIGHT}
    return {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}


_LINK: Json = {
    "title": "Aggregator",
    "type": "dashboards",
    "icon": "external link",
    "tooltip": "The other dashboards, for the same time",
    "url": "",
    "tags": ["aggregator"],
    "asDropdown": True,
    "targetBlank": False,
    "includeVars": False,
    "keepTime": True,
}
