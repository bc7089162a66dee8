"""The stage summarize: refresh the named answers, keep them in PostgreSQL, publish them to Redis."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import redis
import structlog

from aggregator import telemetry
from aggregator.client import connect, summary_key
from aggregator.config.model import Summary
from aggregator.errors import AggregatorError, UsageError
from aggregator.rollups.buckets import floor_to
from aggregator.storage import catalog, runs, summaries
from aggregator.storage.engine import Database, StorageError
from aggregator.storage.summaries import Computed

log = structlog.get_logger(__name__)

LEASE = timedelta(minutes=2)
STATEMENT_TIMEOUT = timedelta(seconds=30)
CACHE_TIMEOUT_SECONDS = 5.0


def make_cache(url: str) -> redis.Redis:
    """The cache, with timeouts that a half-open connection cannot outlast. Raises UsageError for a URL that is none."""
    return connect(url, timeout_seconds=CACHE_TIMEOUT_SECONDS)


@dataclass
class Summarize:
    """The stage. Without a cache the answers are kept in PostgreSQL only."""

    database: Database
    cache: redis.Redis | None
    namespace: str
    node: str

    def run(self, *, clock: Callable[[], datetime], only: str | None = None, by_slots: bool) -> int:
        """Refresh what is due in this slot (or all of it), one after the other; gives how many were refreshed.

        A summary that fails keeps its last good value and does not stop the others. Raises UsageError where `only`
        names none.
        """
        defined = self.database.run(summaries.active_summaries)
        chosen = [summary for summary in defined if only is None or summary.name == only]
        if only is not None and not chosen:
            known = ", ".join(summary.name for summary in defined) or "none"
            raise UsageError(f"no summary is named {only}; there are: {known}")
        return sum(self._refresh(summary, clock=clock, by_slots=by_slots) for summary in chosen)

    def _refresh(self, summary: Summary, *, clock: Callable[[], datetime], by_slots: bool) -> bool:
        now = clock()
        run_id: int | None = None
        if by_slots:
            run_id = self._claim(summary, now)
            if run_id is None:
                return False
        started = time.monotonic()
        error = self._compute(summary, clock())
        telemetry.observe("summary_refresh_duration_seconds", time.monotonic() - started, summary=summary.name)
        if run_id is not None:
            outcome = "ok" if error is None else "failed"
            self.database.run(
                lambda connection: runs.finish(connection, run_id, outcome=outcome, rows=1, now=clock(), error=error)
            )
        return error is None

    def _claim(self, summary: Summary, now: datetime) -> int | None:
        slot = floor_to(now, summary.refresh)
        return self.database.run(
            lambda connection: runs.claim_slot(
                connection, stage="summarize", subject=summary.name, slot=slot, node=self.node, now=now, lease=LEASE
            )
        )

    def _compute(self, summary: Summary, now: datetime) -> str | None:
        """Compute, keep and publish; gives the error's text where it failed."""
        try:
            installation = self.database.run(catalog.read_installation)
            computed = self.database.run(
                lambda connection: summaries.compute(connection, installation, summary, now=now),
                statement_timeout=STATEMENT_TIMEOUT,
            )
            version = self.database.run(lambda connection: summaries.store(connection, summary.name, computed, now=now))
            self._publish(summary, computed, version, now)
        except (StorageError, AggregatorError, redis.RedisError) as error:
            text = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
            log.warning("summary_failed", summary=summary.name, error=text)
            self.database.run(lambda connection: summaries.store_error(connection, summary.name, text, now=now))
            return text
        return None

    def _publish(self, summary: Summary, computed: Computed, version: int, now: datetime) -> None:
        """One SET: a reader sees the old answer or the new one, never a part."""
        if self.cache is None:
            return
        document = as_document(summary, computed, version, now)
        self.cache.set(summary_key(self.namespace, summary.name), json.dumps(document))


def as_document(summary: Summary, computed: Computed, version: int, now: datetime) -> dict[str, Any]:
    """A summary as readers get it."""
    return {
        "name": summary.name,
        "value": computed.rows,
        "as_of": computed.as_of.isoformat(),
        "computed_at": now.isoformat(),
        "tier": computed.tier,
        "completeness": computed.completeness,
        "is_final": computed.is_final,
        "version": version,
        "refresh_seconds": summary.refresh.total_seconds(),
    }
