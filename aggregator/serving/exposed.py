"""What a node's processes have counted, read from their files whenever it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from aggregator.metric_files import quarantined, readable_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

#: A file may be damaged between the check and the reading; it is then found by the next check.
_ATTEMPTS = 2
_merge: Callable[[list[str]], Iterable[Metric]] = MultiProcessCollector.merge


class NodeMetrics(Collector):
    """The sums over all files in a directory, each file checked before it is read."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def collect(self) -> Iterator[Metric]:
        """Metrics of all processes of this node, and how many files could not be read since they were first kept."""
        yield from self._summed()
        name, help_text = "aggregator_metric_files_quarantined", "Metric files set aside since they could not be read."
        yield CounterMetricFamily(name, help_text, value=quarantined(self._directory))

    def _summed(self) -> list[Metric]:
        for attempt in range(_ATTEMPTS):
            files = [str(path) for path in readable_files(self._directory)]
            try:
                return list(_merge(files))
            except Exception:  # whatever a file damaged this very moment makes the reader raise
                if attempt == _ATTEMPTS - 1:
                    raise
        return []


def node_metrics(directory: Path) -> Callable[[str], tuple[bytes, str]]:
    """A function from the request's Accept header to the body and its content type."""
    registry = CollectorRegistry()
    registry.register(NodeMetrics(directory))

    def encode(accept: str) -> tuple[bytes, str]:
        encoder, content_type = choose_encoder(accept)
        return encoder(registry), content_type

    return encode
