"""The stage summarize: refresh the named answers, keep them in PostgreSQL, publish them to Redis."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from aggregator import telemetry
from aggregator.errors import AggregatorError, UsageError
from aggregator.stages.summarize.answering import LackingError, answer
from aggregator.stages.summarize.publication import Publication
from aggregator.storage import runs, summaries
from aggregator.storage.engine import Database, StorageError
from aggregator.storage.stored_summaries import read_stored_summaries
from aggregator.storage.summaries import Due, Published

log = structlog.get_logger(__name__)

#: What a refresh may take beside its own timeout, before another worker takes it over.
LEASE_BESIDE = timedelta(seconds=30)
#: A summary that no node with its database has refreshed for so many slots says why.
SLOTS_LEFT = 2

Clock = Callable[[], datetime]


@dataclass
class Summarize:
    """The stage. Without a publication the answers are kept in PostgreSQL only.

    `databases`: the URLs that this node knows for summaries in SQL; `own_url` is the aggregator's own database.
    """

    database: Database
    publication: Publication | None
    node: str
    own_url: str = ""
    databases: Mapping[str, str] = field(default_factory=dict)

    def run(self, *, clock: Clock, only: str | None = None) -> int:
        """Refresh all summaries, or one, now, one after the other; gives how many were refreshed.

        A summary that fails keeps its last good value and does not stop the others. Raises UsageError where `only`
        names none.
        """
        published = self.database.run(summaries.published_summaries)
        chosen = [one for one in published if only is None or one.name == only]
        if only is not None and not chosen:
            known = ", ".join(one.name for one in published) or "none"
            raise UsageError(f"no summary is named {only}; there are: {known}")
        return sum(self._refresh(one, clock=clock) is None for one in chosen)

    def wake(self, *, clock: Clock) -> list[Due]:
        """Bring Redis up to what PostgreSQL holds, and find what is due; computes nothing."""
        published = self.database.run(summaries.published_summaries)
        if self.publication is not None:
            wanted = self.publication.catch_up(self.database, published)
            if wanted:
                self.database.run(lambda connection: summaries.ask_for(connection, wanted, now=clock()))
                published = self.database.run(summaries.published_summaries)
        now = clock()
        return self.database.run(lambda connection: summaries.due_summaries(connection, published, now=now))

    def refresh(self, name: str, *, slot: datetime, clock: Clock) -> bool:
        """Do a slot of a summary, unless somebody does or did it, or this node cannot; whether it was refreshed."""
        published = self.database.run(summaries.published_summaries)
        found = next((one for one in published if one.name == name), None)
        if found is None or not self._can_answer(found, slot=slot, clock=clock):
            return False
        run_id = self._claim(found, slot=slot, now=clock())
        if run_id is None:
            return False
        error = self._refresh(found, clock=clock)
        outcome = "ok" if error is None else "failed"
        self.database.run(
            lambda connection: runs.finish(connection, run_id, outcome=outcome, rows=1, now=clock(), error=error)
        )
        return error is None

    def _can_answer(self, published: Published, *, slot: datetime, clock: Clock) -> bool:
        """Whether this node knows the database; if not, the slot is left to one that does, but not in silence."""
        lacking = LackingError.of(published.summary, self.databases)
        if lacking is None:
            return True
        log.warning("summary_left", summary=published.name, reason=str(lacking))
        if published.computed_at is None or slot - published.computed_at > SLOTS_LEFT * published.summary.refresh:
            self._fail(published, str(lacking), now=clock())
        return False

    def _claim(self, published: Published, *, slot: datetime, now: datetime) -> int | None:
        name, lease = published.name, published.summary.timeout + LEASE_BESIDE
        return self.database.run(
            lambda connection: summaries.claim(connection, name, slot=slot, node=self.node, now=now, lease=lease)
        )

    def _refresh(self, published: Published, *, clock: Clock) -> str | None:
        """Compute, keep and publish; gives the error's text where it failed."""
        now, started = clock(), time.monotonic()
        try:
            computed = answer(self.database, published.summary, databases=self.databases, own_url=self.own_url, now=now)
            self.database.run(lambda connection: summaries.store(connection, published, computed, now=now))
        except (StorageError, AggregatorError) as error:
            text = _first_line(error)
            log.warning("summary_failed", summary=published.name, error=text)
            self._fail(published, text, now=now)
            return text
        finally:
            seconds = time.monotonic() - started
            telemetry.observe("summary_refresh_duration_seconds", seconds, summary=published.name)
        self._publish(published)
        return None

    def _fail(self, published: Published, error: str, *, now: datetime) -> None:
        self.database.run(lambda connection: summaries.store_error(connection, published.name, error, now=now))
        self._publish(published)

    def _publish(self, published: Published) -> None:
        if self.publication is not None:
            names = [published.name]
            found = self.database.run(lambda connection: read_stored_summaries(connection, names))
            self.publication.publish(found)


def _first_line(error: Exception) -> str:
    text = str(getattr(error, "orig", None) or error).strip()
    return text.splitlines()[0] if text else type(error).__name__


__all__ = ["Publication", "Summarize"]
