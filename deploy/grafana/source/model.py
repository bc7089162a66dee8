"""Dashboards as values: a panel is declared in a few lines. `document.py` makes of them what Grafana imports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class DataSource:
    """A kind of data source, and the one that a dashboard begins with: that of `provisioning/datasources`."""

    kind: str
    uid: str
    name: str


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
    """A variable that is asked of the data source (`query`), chosen from a list (`custom`) or typed (`textbox`).

    `all_value` is what All stands for; it goes into the query as it is.
    """

    name: str
    label: str
    description: str
    type: str
    query: str
    is_multiple: bool = False
    all_value: str = ""


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


@dataclass(frozen=True)
class Dashboard:
    """A dashboard; `uid` is its address and stays. `start` is relative to now; `refresh` is how often it asks anew."""

    uid: str
    title: str
    description: str
    source: DataSource
    variables: Sequence[Variable]
    rows: Sequence[Row]
    annotations: Sequence[Annotation] = ()
    start: str = "now-3h"
    refresh: str = "1m"
