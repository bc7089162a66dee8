"""The dashboard *Explore a metric*: any metric, by a selector that is put together from variables.

What is typed stays text. Variables of one value go into '...', where Grafana doubles their quotes; several instances,
as an expression, between `$q$` and `$q$` (host_queries.py says why); PostgreSQL puts the parts together when it plans.
A column is not named by a variable but picked by comparing with one.
"""

from __future__ import annotations

from deploy.grafana.source.host_queries import INSTANCES
from deploy.grafana.source.model import POSTGRES, Annotation, Dashboard, Look, Panel, Query, Row, Variable

STATISTICS = ("avg", "min", "max", "sum", "first", "last", "stddev", "increase", "rate", "count")
_OF_SEVERAL = tuple(name for name in STATISTICS if name not in ("first", "last"))
#: A comma at the end is allowed, as in Prometheus; `$q$instance` without the space would hold a variable.
_SELECTOR = f"'$metric{{' || $q$ {INSTANCES},$q$ || '$conditions}}'"
_SPAN = "$__timeFrom(), $__timeTo(), $__interval_ms"
_RANGE = f"aggregator.metric_range(\n    {_SELECTOR}, {_SPAN})"
_BY = "string_to_array('$by', ',')"
_SERIES = "${__field.labels.series}"


def _chosen_statistic(names: tuple[str, ...]) -> str:
    """SQL: the value that the variable names; else the rate of a counter and the average of a gauge."""
    cases = "\n".join(f"        WHEN '{name}' THEN {name}" for name in names)
    return f"CASE '$statistic'\n{cases}\n        ELSE coalesce(rate, avg)\n    END"


def _quantile(function: str) -> Query:
    """A line for each group; nothing where the metric is of another kind."""
    return Query(
        f"SELECT time, labels::text AS series, quantile AS value\nFROM aggregator.{function}(\n"
        f"    '$quantile'::float8, {_SELECTOR}, {_SPAN}, {_BY})\nWHERE quantile IS NOT NULL\nORDER BY time"
    )


VARIABLES = (
    Variable(
        "metric", "Metric", "One metric; of a histogram, its buckets.", "query", "SELECT aggregator.metric_names()"
    ),
    Variable(
        "instance",
        "Instance",
        "One instance or more.",
        "query",
        "SELECT aggregator.label_values('$metric', 'instance')",
        is_multiple=True,
        all_value=".*",
    ),
    Variable("conditions", "Conditions", 'On other labels, as in Prometheus: mode="idle",cpu!~"1.*"', "textbox", ""),
    Variable(
        "statistic",
        "Statistic",
        "auto: the rate of counters and the average of gauges.",
        "custom",
        ",".join(("auto", *STATISTICS)),
    ),
    Variable("quantile", "Quantile", "Between 0 and 1.", "custom", "0.5,0.9,0.95,0.99"),
    Variable("by", "Group by", "Labels with commas between them; none: all series together.", "textbox", "instance"),
)

_VALUES = Row(
    "Values",
    (
        Panel(
            "timeseries",
            "Each series",
            "The chosen statistic of each series that the selector means.",
            (
                Query(
                    f"SELECT time, labels::text AS series,\n    {_chosen_statistic(STATISTICS)} AS value\n"
                    f"FROM {_RANGE}\nORDER BY time"
                ),
            ),
            Look(),
            _SERIES,
            width=24,
            height=10,
            interval="5s",
        ),
        Panel(
            "timeseries",
            "Grouped",
            "The same over all series that agree in the labels to group by, weighted: an average is of all samples."
            " Several series have no first and no last value.",
            (
                Query(
                    f"SELECT time, labels::text AS series,\n"
                    f"    {_chosen_statistic(_OF_SEVERAL)} AS value\n"
                    f"FROM aggregator.metric_range_by(\n    {_SELECTOR}, {_SPAN}, {_BY})\nORDER BY time"
                ),
            ),
            Look(),
            _SERIES,
            width=24,
            interval="5s",
        ),
    ),
)

_QUANTILES = Row(
    "Quantiles",
    (
        Panel(
            "timeseries",
            "Quantile of a gauge",
            "Of a gauge whose source keeps sketches (quantiles), over all series of a group, within 1 %.",
            (_quantile("sketch_quantile_range"),),
            Look(no_value="no sketches"),
            _SERIES,
        ),
        Panel(
            "timeseries",
            "Quantile of a histogram",
            "Of a histogram's buckets (a metric that ends in _bucket), over all series of a group, as in Prometheus.",
            (_quantile("histogram_quantile_range"),),
            Look(no_value="no buckets"),
            _SERIES,
        ),
    ),
)

_QUALITY = Row(
    "How good these numbers are",
    (
        Panel(
            "timeseries",
            "Completeness",
            "Samples that arrived over samples due, of each series.",
            (Query(f"SELECT time, labels::text AS series, completeness AS value\nFROM {_RANGE}\nORDER BY time"),),
            Look("percentunit", min=0, max=1),
            _SERIES,
            interval="5s",
        ),
        Panel(
            "table",
            "Tier",
            "What the numbers were read from at this interval: raw is samples. What is not final may change.",
            (
                Query(
                    "SELECT tier, count(DISTINCT labels) AS series, count(DISTINCT time) AS intervals,\n"
                    "    count(DISTINCT time) FILTER (WHERE NOT is_final) AS not_final, sum(count) AS samples,\n"
                    "    avg(completeness) AS completeness, min(time) AS oldest, max(time) AS newest\n"
                    f"FROM {_RANGE}\nGROUP BY tier\nORDER BY tier",
                    "table",
                ),
            ),
            interval="5s",
        ),
        Panel(
            "table",
            "Newest values",
            "Every statistic of the newest interval of each series. A kind of series lacks some: a gauge has no rate.",
            (
                Query(
                    "SELECT DISTINCT ON (labels) labels::text AS series, time, count, avg, min, max, first, last,\n"
                    "    stddev, increase, rate, completeness, CASE WHEN is_final THEN 'final' ELSE 'may change' END"
                    f" AS state, tier\nFROM {_RANGE}\nORDER BY labels, time DESC",
                    "table",
                ),
            ),
            width=24,
            interval="5s",
        ),
        Panel(
            "table",
            "Labels",
            "The labels of this metric, for conditions and for grouping: how many values each has, and five of them.",
            (
                Query(
                    "SELECT label, count(DISTINCT value) AS values,\n"
                    "    array_to_string((array_agg(DISTINCT value))[1:5], ', ') AS examples\n"
                    "FROM aggregator.metric_series, jsonb_each_text(labels) AS one (label, value)\n"
                    "WHERE metric = '$metric'\nGROUP BY label\nORDER BY label",
                    "table",
                ),
            ),
            width=24,
        ),
    ),
)

NOT_FINAL = Annotation(
    "Not final",
    "SELECT min(time) AS time, $__timeTo()::timestamptz AS timeend, 'not final: more samples may come' AS text\n"
    f"FROM {_RANGE}\nWHERE NOT is_final\nHAVING count(*) > 0",
    "light-blue",
)

EXPLORE = Dashboard(
    "aggregator-explore",
    "Explore a metric",
    "Any metric: its statistics, its quantiles, how complete it is, and which tier it was read from.",
    POSTGRES,
    VARIABLES,
    (_VALUES, _QUANTILES, _QUALITY),
    (NOT_FINAL,),
    start="now-1h",
)
