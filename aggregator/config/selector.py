"""Prometheus' selectors: which series are meant, by metric name and labels."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, cast

from aggregator.config.pattern import compile_pattern, portable_pattern
from aggregator.config.quoting import quote_text, quoted_at, unquote

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

METRIC_NAME_LABEL = "__name__"
EXAMPLE = 'node_load1{job="node",instance=~"web.*"}'

Operator = Literal["=", "!=", "=~", "!~"]

_METRIC_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_OPERATOR = re.compile(r"!=|=~|!~|=(?!=)")
_SPACE = re.compile(r"(?:\s|#[^\n]*)*")
#: A regular expression up to the brace that begins the matchers, which is neither escaped, in [...] nor a `{2,3}`.
_ANCHORED_NAME = re.compile(r"(?:\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{\d+(?:,\d*)?\}|[^{\\\[])*", re.DOTALL)


@dataclass(frozen=True)
class Matcher:
    """One condition on a label; the metric name is label `__name__`. Expressions are fully anchored."""

    name: str
    op: Operator
    value: str

    def matches(self, value: str) -> bool:
        """Whether a label's value meets the condition; an absent label is the empty string."""
        if self.op in ("=", "!="):
            return (value == self.value) == (self.op == "=")
        return (compile_pattern(self.value).fullmatch(value) is not None) == (self.op == "=~")

    def __str__(self) -> str:
        name = self.name if _LABEL_NAME.fullmatch(self.name) else quote_text(self.name)
        return f"{name}{self.op}{quote_text(self.value)}"


@dataclass(frozen=True)
class Selector:
    """Conditions that a series must meet, all of them; those on the metric name come first.

    `str()` gives a text that `parse_selector` reads as an equal selector.
    """

    matchers: tuple[Matcher, ...]

    @property
    def metric(self) -> str | None:
        """The one metric that can match; None where more may."""
        return next((m.value for m in self.matchers if m.name == METRIC_NAME_LABEL and m.op == "="), None)

    def matches(self, metric: str, labels: Mapping[str, str]) -> bool:
        """Whether a series of this metric and these labels is meant."""
        return all(
            matcher.matches(metric if matcher.name == METRIC_NAME_LABEL else labels.get(matcher.name, ""))
            for matcher in self.matchers
        )

    def __str__(self) -> str:
        names = [matcher for matcher in self.matchers if matcher.name == METRIC_NAME_LABEL]
        if len(names) == 1 and names[0].op == "=" and _METRIC_NAME.fullmatch(names[0].value):
            rest = self.matchers[1:]
            return names[0].value + (f"{{{','.join(map(str, rest))}}}" if rest else "")
        return f"{{{','.join(map(str, self.matchers))}}}"


@lru_cache(maxsize=4_096)
def parse_selector(text: str, *, anchored_name: bool = False) -> Selector:
    r"""Read a selector such as `node_load1{job="node",instance=~"web.*"}`.

    With `anchored_name` (for `keep` and `drop`) what stands before the braces may be a regular expression such as
    `go_.*`, and a selector may match everything. Expressions are checked: see `aggregator.config.pattern`.

    Raises ValueError that shows the place and says what would be right.
    """
    reader = _Reader(text)
    name = reader.anchored_name() if anchored_name else reader.metric_name()
    within = tuple(reader.matchers())
    matchers = (() if name is None else (name,)) + within
    if name is not None and any(matcher.name == METRIC_NAME_LABEL for matcher in within):
        raise reader.fault("the metric name is set twice; leave one out")
    matchers = tuple(sorted(matchers, key=lambda matcher: matcher.name != METRIC_NAME_LABEL))
    if not anchored_name and all(matcher.matches("") for matcher in matchers):
        raise reader.fault(
            f"this would match every series; add a condition that refuses an empty value, as in {EXAMPLE}"
        )
    return Selector(matchers)


class _Reader:
    """What is left to read of a selector's text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        self._skip_space()

    def fault(self, message: str) -> ValueError:
        """An error at the place that was reached."""
        return ValueError(f"selector {self._text!r}, column {self._position + 1}: {message}")

    def metric_name(self) -> Matcher | None:
        name = self._take(_METRIC_NAME)
        if name is None and not self._at("{"):
            raise self.fault(f"expected a metric name or {{, as in {EXAMPLE}")
        return None if name is None else Matcher(METRIC_NAME_LABEL, "=", name)

    def anchored_name(self) -> Matcher | None:
        name = (self._take(_ANCHORED_NAME) or "").rstrip()
        if not name and not self._at("{"):
            raise self.fault('expected a metric name, an expression such as "go_.*", or {')
        if not name:
            return None
        is_plain = _METRIC_NAME.fullmatch(name) is not None
        return Matcher(METRIC_NAME_LABEL, "=", name) if is_plain else self._checked(METRIC_NAME_LABEL, "=~", name)

    def matchers(self) -> Iterator[Matcher]:
        """The conditions in braces, if there are any, up to the end of the text."""
        if self._skip("{"):
            while not self._skip("}"):
                yield self._matcher()
                if not self._skip(",") and not self._at("}"):
                    raise self.fault("expected , or } after a condition")
        if self._position < len(self._text):
            raise self.fault(f"expected nothing more; a selector is a name and conditions, as in {EXAMPLE}")

    def _matcher(self) -> Matcher:
        name, is_quoted = self._take(_LABEL_NAME), False
        if name is None:
            name, is_quoted = self._string("a label name"), True
        if is_quoted and (self._at(",") or self._at("}")):
            if not name:
                raise self.fault("a metric name cannot be empty")
            return Matcher(METRIC_NAME_LABEL, "=", name)
        operator = self._take(_OPERATOR)
        if operator is None:
            raise self.fault(f'expected =, !=, =~ or !~ after the label name, as in {name}="value"')
        return self._checked(name, cast("Operator", operator), self._string("a value in quotes"))

    def _checked(self, name: str, operator: Operator, value: str) -> Matcher:
        if operator in ("=~", "!~"):
            try:
                portable_pattern(value)
            except ValueError as error:
                raise self.fault(str(error)) from None
        return Matcher(name, operator, value)

    def _string(self, expected: str) -> str:
        quoted = quoted_at(self._text, self._position)
        if quoted is None:
            is_open = self._position < len(self._text) and self._text[self._position] in "\"'`"
            raise self.fault("this quote is not closed" if is_open else f"expected {expected}, as in {EXAMPLE}")
        try:
            value = unquote(quoted[0])
        except ValueError as error:
            raise self.fault(str(error)) from None
        self._position = quoted.end()
        self._skip_space()
        return value

    def _take(self, expression: re.Pattern[str]) -> str | None:
        found = expression.match(self._text, self._position)
        if found is None:
            return None
        self._position = found.end()
        self._skip_space()
        return found[0]

    def _at(self, character: str) -> bool:
        return self._text.startswith(character, self._position)

    def _skip(self, character: str) -> bool:
        if not self._at(character):
            return False
        self._position += 1
        self._skip_space()
        return True

    def _skip_space(self) -> None:
        space = _SPACE.match(self._text, self._position)
        self._position = space.end() if space else self._position
