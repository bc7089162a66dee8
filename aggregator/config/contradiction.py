"""Selectors that can match nothing, or leave nothing: found before anyone wonders where the series are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aggregator.config.selector import METRIC_NAME_LABEL, Matcher, Selector

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_EVERYTHING = (".*", "^.*$", "(.*)")
_ANYTHING = (".+", "^.+$", "(.+)")


def contradiction(selector: Selector, fixed_labels: Mapping[str, str]) -> str | None:
    """Why no series can match, where that is certain; None where some may.

    `fixed_labels` are those that every series has. Two regular expressions are not compared with each other.
    """
    for matcher in selector.matchers:
        if matcher.op == "!~" and matcher.value in _EVERYTHING:
            return f"{matcher} refuses every value"
        if matcher.name in fixed_labels and not matcher.matches(fixed_labels[matcher.name]):
            return f"{matcher.name} is always {fixed_labels[matcher.name]!r} here, which {matcher} refuses"
        if matcher.op == "=" and matcher.name == METRIC_NAME_LABEL and not matcher.value:
            return "no metric has an empty name"
        if matcher.op == "=":
            refusing = _refusing(matcher, selector.matchers)
            if refusing:
                return f"{matcher} and {refusing} exclude each other"
    return None


def _refusing(equal: Matcher, matchers: Sequence[Matcher]) -> Matcher | None:
    """The condition on the same label that the one value allowed by `equal` does not meet."""
    return next((other for other in matchers if other.name == equal.name and not other.matches(equal.value)), None)


def covers(drop: Selector, keep: Sequence[Selector]) -> bool:
    """Whether a `drop` selector certainly drops all that `keep` keeps (everything, where `keep` is empty)."""
    conditions = {matcher for matcher in drop.matchers if not _always_met(matcher)}
    return not conditions or (bool(keep) and all(conditions <= set(kept.matchers) for kept in keep))


def _always_met(matcher: Matcher) -> bool:
    if matcher.op != "=~":
        return False
    return matcher.value in _EVERYTHING or (matcher.name == METRIC_NAME_LABEL and matcher.value in _ANYTHING)
