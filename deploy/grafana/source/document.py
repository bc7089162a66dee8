"""The JSON of a dashboard, as Grafana imports it; where a panel is follows from its row and width.

Only what Grafana's published schema allows is written: it takes no override with a plain value, so that queries name
their series by labels (`displayName`) and turn signs themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from deploy.grafana.source.model import Annotation, Dashboard, DataSource, Look, Panel, Query, Variable

Json = dict[str, Any]

#: Grafana of 11.0; newer ones bring it up to date as they read it.
SCHEMA_VERSION = 39
COLUMNS = 24
ROW_HEIGHT = 1

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


def document(dashboard: Dashboard) -> Json:
    """The whole dashboard."""
    source = dashboard.source
    variables = [_variable(variable, source) for variable in dashboard.variables]
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": ["aggregator"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,
        "time": {"from": dashboard.start, "to": "now"},
        "refresh": dashboard.refresh,
        "timezone": "browser",
        "templating": {"list": [_chosen_source(source), *variables]},
        "annotations": {"list": [_annotation(annotation, source) for annotation in dashboard.annotations]},
        "links": [_LINK],
        "panels": list(_placed(dashboard)),
    }


def _placed(dashboard: Dashboard) -> Iterator[Json]:
    number, y = 0, 0
    for row in dashboard.rows:
        number += 1
        yield _heading(row.title, number, y=y)
        x, y, height = 0, y + ROW_HEIGHT, 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, height = 0, y + height, 0
            number += 1
            yield {"id": number, "gridPos": _place(x, y, panel.width, panel.height), **_panel(panel, dashboard.source)}
            x, height = x + panel.width, max(height, panel.height)
        y += height


def _heading(title: str, number: int, *, y: int) -> Json:
    place = _place(0, y, COLUMNS, ROW_HEIGHT)
    return {"id": number, "gridPos": place, "type": "row", "title": title, "collapsed": False, "panels": []}


def _place(x: int, y: int, width: int, height: int) -> Json:
    return {"x": x, "y": y, "w": width, "h": height}


def _reference(source: DataSource) -> Json:
    return {"type": source.kind, "uid": "${datasource}"}


def _chosen_source(source: DataSource) -> Json:
    return {
        "type": "datasource",
        "name": "datasource",
        "label": "Data source",
        "query": source.kind,
        "current": {"text": source.name, "value": source.uid},
        "refresh": 1,
    }


def _variable(variable: Variable, source: DataSource) -> Json:
    common = {name: getattr(variable, name) for name in ("type", "name", "label", "description", "query")}
    if variable.type == "textbox":
        return common
    choice = {"multi": variable.is_multiple, "includeAll": bool(variable.all_value)}
    all_value = {"allValue": variable.all_value} if variable.all_value else {}
    if variable.type == "custom":
        return {**common, **choice, **all_value}
    # 2: asked again when the time range changes, so that what has come since is there.
    asked = {"datasource": _reference(source), "definition": variable.query, "refresh": 2, "sort": 1}
    return {**common, **asked, **choice, **all_value}


def _annotation(annotation: Annotation, source: DataSource) -> Json:
    return {
        "name": annotation.name,
        "enable": True,
        "iconColor": annotation.color,
        "datasource": _reference(source),
        "target": _target(Query(annotation.sql, "table"), "Anno", source),
    }


def _target(query: Query, ref_id: str, source: DataSource) -> Json:
    common = {"refId": ref_id, "datasource": _reference(source), "format": query.format, "editorMode": "code"}
    if source.kind != "prometheus":
        return {**common, "rawSql": query.text, "rawQuery": True}
    is_instant = query.format == "table"
    legend = {"legendFormat": query.legend} if query.legend else {}
    return {**common, "expr": query.text, "instant": is_instant, "range": not is_instant, **legend}


def _panel(panel: Panel, source: DataSource) -> Json:
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _reference(source),
        **({"interval": panel.interval} if panel.interval else {}),
        "maxDataPoints": panel.max_points,
        "targets": [_target(query, chr(ord("A") + place), source) for place, query in enumerate(panel.queries)],
        "fieldConfig": {"defaults": _field(panel), "overrides": []},
        "options": _OPTIONS[panel.kind],
    }


def _field(panel: Panel) -> Json:
    look = panel.look
    given = {"min": look.min, "max": look.max, "decimals": look.decimals}
    result: Json = {"unit": look.unit, **{name: value for name, value in given.items() if value is not None}}
    result["color"] = {"mode": "palette-classic" if panel.kind == "timeseries" else "thresholds"}
    steps = look.steps or ((None, "green" if panel.kind in ("stat", "gauge") else "text"),)
    result["thresholds"] = {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in steps]}
    texts = {"displayName": panel.name, "noValue": look.no_value}
    result |= {name: text for name, text in texts.items() if text}
    if panel.kind == "timeseries":
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
