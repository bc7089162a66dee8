"""What the panels of *Aggregator operations* share: the forms of their PromQL, and how values look.

Counters of nodes are summed; what `web` says of the installation is taken as the largest, since several may say it.
"""

from __future__ import annotations

from deploy.grafana.source.model import Look, Panel, Query

YES = Look("bool_yes_no", min=0, max=1, steps=((None, "red"), (1, "green")))


def late(orange: float, red: float) -> Look:
    """An age in seconds that should be small."""
    return Look("s", min=0, decimals=0, steps=((None, "green"), (orange, "orange"), (red, "red")))


def asks(*queries: tuple[str, str]) -> tuple[Query, ...]:
    """Queries, each with the legend of its series."""
    return tuple(Query(expression, legend=legend) for expression, legend in queries)


def age(name: str, by: str) -> tuple[Query, ...]:
    """How long ago an instant was, by a label."""
    return asks((f"time() - max by ({by}) (aggregator_{name})", f"{{{{{by}}}}}"))


def newest(name: str, *by: str) -> tuple[Query, ...]:
    """What the installation says, by labels."""
    legend = " ".join(f"{{{{{label}}}}}" for label in by)
    return asks((f"max by ({', '.join(by)}) (aggregator_{name})", legend))


def rate(name: str, *by: str) -> tuple[Query, ...]:
    """What all nodes together do per second, by labels."""
    legend = " ".join(f"{{{{{label}}}}}" for label in by)
    return asks((f"sum by ({', '.join(by)}) (rate(aggregator_{name}[$__rate_interval]))", legend))


def slowest(name: str, by: str) -> tuple[Query, ...]:
    """What 95 % of a histogram are below, over all nodes, by a label."""
    buckets = f"rate(aggregator_{name}_bucket[$__rate_interval])"
    return asks((f"histogram_quantile(0.95, sum by ({by}, le) ({buckets}))", f"{{{{{by}}}}}"))


def stat(title: str, description: str, queries: tuple[Query, ...], look: Look) -> Panel:
    """A single number, small."""
    return Panel("stat", title, description, queries, look, width=4, height=5, interval="", max_points=100)


def graph(title: str, description: str, queries: tuple[Query, ...], look: Look | None = None) -> Panel:
    """A third of the width."""
    return Panel("timeseries", title, description, queries, look or Look(min=0), width=8, interval="")
