"""From what a target says of a series to the series that is registered: target labels, keep and drop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aggregator.config.selector import Selector
from aggregator.config.source_model import BaseSource, PrometheusSource
from aggregator.exposition.series import Kind, SeriesKey


@dataclass(frozen=True)
class Labelling:
    """The rules of one source: whose labels win, and which series are kept."""

    honor_labels: bool
    keep: tuple[Selector, ...]
    drop: tuple[Selector, ...]

    @classmethod
    def of(cls, source: BaseSource) -> Labelling:
        """The rules that a source is configured with."""
        honor_labels = isinstance(source, PrometheusSource) and source.honor_labels
        return cls(honor_labels=honor_labels, keep=source.keep_selectors(), drop=source.drop_selectors())

    def series(
        self, metric: str, labels: Mapping[str, str], kind: Kind, *, target_labels: tuple[tuple[str, str], ...]
    ) -> SeriesKey | None:
        """The series to register, or None where `keep` and `drop` leave it out.

        As in Prometheus: the target's label wins and the exposed one becomes `exported_<name>`; with `honor_labels`
        the exposed one wins. A label with an empty value is no label.
        """
        merged = merge_labels(labels, target_labels, honor_labels=self.honor_labels)
        if self.keep and not any(selector.matches(metric, merged) for selector in self.keep):
            return None
        if any(selector.matches(metric, merged) for selector in self.drop):
            return None
        return SeriesKey(metric, tuple(sorted(merged.items())), kind)


def merge_labels(
    exposed: Mapping[str, str], target_labels: tuple[tuple[str, str], ...], *, honor_labels: bool
) -> dict[str, str]:
    """Both label sets in one: a clash is renamed, or with `honor_labels` decided for the exposed label.

    With `honor_labels` even an exposed label with an empty value wins: the target's is then not added.
    """
    merged = dict(exposed)
    for name, value in target_labels:
        if name in merged:
            if honor_labels:
                continue
            renamed = f"exported_{name}"
            while renamed in merged:
                renamed = f"exported_{renamed}"
            if merged[name]:
                merged[renamed] = merged[name]
        merged[name] = value
    return {name: value for name, value in merged.items() if value}
