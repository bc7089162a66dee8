"""The collector of `prometheus` sources: endpoints that expose metrics over HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import structlog

from aggregator.collectors.access import REASON, Access
from aggregator.collectors.compression import unpack
from aggregator.collectors.http import Answer
from aggregator.collectors.labels import Labelling
from aggregator.collectors.outcome import failed, now
from aggregator.collectors.protocol import Collected, Target
from aggregator.collectors.scraping import Bounds, Scraped, scrape_all
from aggregator.collectors.selection import Selection
from aggregator.config.source_model import BaseSource, Limits, PrometheusSource
from aggregator.errors import RejectedError
from aggregator.exposition.parser import TargetParser

log = structlog.get_logger(__name__)

#: What is remembered of a target that this process has not read for so long is forgotten.
FORGET_AFTER_SECONDS = 900


@dataclass(frozen=True)
class Rules:
    """What decides how a target's answer is read; another rule, and what is remembered of the target is void."""

    target: Target
    labelling: Labelling
    limits: Limits
    honor_timestamps: bool


@dataclass
class TargetReader:
    """Reads the answers of one target, and remembers its last."""

    rules: Rules
    parser: TargetParser
    selection: Selection | None = None
    read_at_seconds: float = 0.0

    def read(self, answer: Answer, scraped: Scraped) -> Collected:
        """The batches of an answer. Raises RejectedError."""
        target, limits = self.rules.target, self.rules.limits
        answer.access.refuse_echo(f"{answer.content_type} {answer.content_encoding}".encode())
        body = unpack(answer.body, answer.content_encoding, body_bytes=limits.body_bytes)
        answer.access.refuse_echo(body)
        exposition = self.parser.parse(body, answer.content_type)
        if not self.rules.honor_timestamps:
            exposition = replace(exposition, timestamps_ms=None)
        selection = self.selection
        if selection is None or selection.exposed is not exposition.series:
            selection = self.selection = Selection.of(exposition.series, target, self.rules.labelling)
        return selection.collected(target, exposition, started_at=scraped.started_at, seconds=scraped.duration_seconds)


@dataclass
class PrometheusCollector:
    """Reads Prometheus endpoints. One instance lives as long as its process and remembers the targets' last answers."""

    readers: dict[int, TargetReader] = field(default_factory=dict)
    #: Whether this node may read the files that a source names.
    may_read: Callable[[PrometheusSource], bool] = lambda _: True

    def collect(self, source: BaseSource, targets: Sequence[Target]) -> Iterator[Collected]:
        """Ask all targets at once, and yield each as soon as it has answered or failed; never raises for a target.

        Closing the iterator early ends what is still in flight.
        """
        if not isinstance(source, PrometheusSource):
            raise TypeError(f"a source of kind prometheus is wanted, not {type(source).__name__}")
        labelling = Labelling.of(source)
        self._forget(time.monotonic())
        try:
            bounds = Bounds(source.deadline, source.limits.body_bytes, self._access(source))
        except RejectedError as error:
            yield from (_failure(Scraped(target, now(), 0.0, error), error) for target in targets)
            return
        for scraped in scrape_all(targets, bounds):
            rules = Rules(scraped.target, labelling, source.limits, source.honor_timestamps)
            yield self._collected(rules, scraped)

    def _access(self, source: PrometheusSource) -> Access:
        if source.names_files and not self.may_read(source):
            raise RejectedError(
                REASON,
                'this node reads files only for sources of its own configuration (read_files = "local"), and this '
                "source is not among them as it is published",
            )
        return Access.of(source)

    def _collected(self, rules: Rules, scraped: Scraped) -> Collected:
        if isinstance(scraped.outcome, RejectedError):
            return _failure(scraped, scraped.outcome)
        try:
            return self._reader(rules).read(scraped.outcome, scraped)
        except RejectedError as error:
            return _failure(scraped, error)
        except Exception as error:
            log.exception("scrape_unreadable", target=scraped.target.id)
            what = type(error).__name__
            return _failure(scraped, RejectedError("internal", f"reading the answer failed with {what}; see the log"))

    def _reader(self, rules: Rules) -> TargetReader:
        reader = self.readers.get(rules.target.id)
        if reader is None or reader.rules != rules:
            reader = self.readers[rules.target.id] = TargetReader(rules, TargetParser(rules.limits))
        reader.read_at_seconds = time.monotonic()
        return reader

    def _forget(self, now_seconds: float) -> None:
        unread_since = now_seconds - FORGET_AFTER_SECONDS
        for target_id in [id_ for id_, reader in self.readers.items() if reader.read_at_seconds < unread_since]:
            del self.readers[target_id]


def _failure(scraped: Scraped, error: RejectedError) -> Collected:
    return failed(
        scraped.target,
        started_at=scraped.started_at,
        duration_seconds=scraped.duration_seconds,
        reason=error.reason,
        error=str(error),
    )
