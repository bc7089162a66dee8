"""From a selector to conditions on the columns `metric` and `labels`."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, and_, func

from aggregator.config.pattern import portable_pattern
from aggregator.config.selector import Matcher, Selector


def selected(selector: Selector, *, metric: ColumnElement[Any], labels: ColumnElement[Any]) -> ColumnElement[bool]:
    """The condition that a row's series matches; an absent label is "", as in Prometheus."""
    return and_(*(_condition(matcher, metric, labels) for matcher in selector.matchers))


def _condition(matcher: Matcher, metric: ColumnElement[Any], labels: ColumnElement[Any]) -> ColumnElement[bool]:
    column = metric if matcher.name == "__name__" else func.coalesce(labels.op("->>")(matcher.name), "")
    if matcher.op == "=":
        return column == matcher.value
    if matcher.op == "!=":
        return column != matcher.value
    pattern = f"^(?:{portable_pattern(matcher.value)})$"
    return column.op("~")(pattern) if matcher.op == "=~" else column.op("!~")(pattern)
