"""What the panels of the dashboard *Host* share: the forms of their SQL, and how values look.

What a viewer chooses goes into the selector, where it is cheapest: only the chosen series are read. It is text between
`$q$` and `$q$`, which nothing typed can end: Grafana's format `regex` puts a backslash before each dollar sign. Within
the selector it is between backquotes, where backslashes are nothing special; All is `.*`.
"""

from __future__ import annotations

from deploy.grafana.source.model import Look, Query

#: A share of something that should not be full.
SHARE = Look("percentunit", min=0, max=1, steps=((None, "green"), (0.8, "orange"), (0.9, "red")))
#: What a series is called: by its labels.
INSTANCE = "${__field.labels.instance}"
KIND = "${__field.labels.instance} ${__field.labels.kind}"
DEVICE = "${__field.labels.instance} ${__field.labels.device} ${__field.labels.kind}"
#: File systems that are not in memory.
DISKS = '{fstype!~"tmpfs|ramfs"}'
JOB = "job=~`${job:regex}`"
INSTANCES = "instance=~`${instance:regex}`"


def ranged(selector: str) -> str:
    """The call for the panel's span and interval, of the chosen instances."""
    metric, _, conditions = selector.partition("{")
    more = f",{conditions.removesuffix('}')}" if conditions else ""
    whole = f"$q${metric}{{{JOB},{INSTANCES}{more}}}$q$"
    return f"aggregator.metric_range(\n    {whole}, $__timeFrom(), $__timeTo(), $__interval_ms)"


def chosen(columns: str, selector: str) -> str:
    """Columns of a range of the chosen instances."""
    return f"SELECT {columns}\nFROM {ranged(selector)}"


def by_instance(value: str, selector: str, *, group: bool = False) -> Query:
    """A line for each instance; `value` is an aggregate over its series where they are to be grouped."""
    grouped = "\nGROUP BY time, instance" if group else ""
    return Query(f"{chosen(f'time, instance, {value} AS value', selector)}{grouped}\nORDER BY time")


def by_kind(value: str, **selectors: str) -> Query:
    """A line for each instance and kind: `value` of each selector, by what the kind is called."""
    parts = [
        chosen(f"time, instance, '{_word(kind)}' AS kind, {value} AS value", selector)
        for kind, selector in selectors.items()
    ]
    return Query("\nUNION ALL\n".join(parts) + "\nORDER BY time")


def by_device(**metrics: tuple[str, str]) -> Query:
    """A line for each device and kind, by what the kind is called: the value, and the metric that it is of."""
    parts = [
        chosen(f"time, instance, labels ->> 'device' AS device, '{_word(kind)}' AS kind, {value} AS value", metric)
        for kind, (value, metric) in metrics.items()
    ]
    return Query("\nUNION ALL\n".join(parts) + "\nORDER BY time")


def pairs(numerator: str, denominator: str, statistic: str) -> str:
    """Two metrics whose series have the same labels, side by side, as `a` and `b`, to select from."""
    sides = [
        f"(\n{chosen(f'time, labels, instance, {statistic} AS {name}', selector)}\n) AS side_{name}"
        for name, selector in (("a", numerator), ("b", denominator))
    ]
    return f"{sides[0]}\nJOIN {sides[1]} USING (time, labels, instance)"


def _word(kind: str) -> str:
    return kind.replace("_", " ")
