"""An installation with two summaries in SQL, whose stage a test runs at times of its own choice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import text

from aggregator import client
from aggregator.client import read
from aggregator.config.model import Summary
from aggregator.stages.summarize import Publication, Summarize
from aggregator.storage.engine import Database
from aggregator.storage.publish_summaries import publish_summaries
from tests.installation import Installation, settings_for
from tests.templates import BroughtUp, installed

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
COUNTED = Summary(name="counted", sql="SELECT count(*) AS n FROM asked", refresh=timedelta(seconds=30))
DAILY = Summary(name="daily", sql="SELECT 'x' AS b, now() AS a", refresh=timedelta(days=1))


@dataclass
class Site:
    """An installation with two summaries in SQL on its own database."""

    installation: Installation
    stage: Summarize
    cache_url: str

    def due(self) -> int:
        """What a wake and the messages that it sends do; gives how many summaries were refreshed."""
        slots = self.stage.wake(clock=self.clock)
        return sum(self.stage.refresh(due.name, slot=due.slot, clock=self.clock) for due in slots)

    def clock(self) -> datetime:
        return self.installation.now

    def later(self, seconds: float = 30) -> None:
        self.installation.now += timedelta(seconds=seconds)

    def read(self, name: str) -> client.Summary:
        return read(name, url=self.cache_url)

    def execute(self, statement: str) -> list[Any]:
        with self.installation.database.engine.begin() as connection:
            found = connection.execute(text(statement))
            return list(found.all()) if found.returns_rows else []

    def publish(self, *summaries: Summary) -> None:
        self.installation.database.run(
            lambda connection: publish_summaries(connection, summaries, now=self.installation.now)
        )


@contextmanager
def summarized(brought_up: BroughtUp, cache_url: str, directory: Path) -> Iterator[Site]:
    """Such an installation, in which nothing was computed yet."""
    settings = settings_for(directory).model_copy(update={"summaries": (COUNTED, DAILY)})
    with installed(brought_up, START, settings) as installation:
        made = Site(installation, stage_of(installation, cache_url), cache_url)
        made.execute("CREATE TABLE public.asked (at timestamptz)")
        yield made


def stage_of(
    installation: Installation, cache_url: str, database: Database | None = None, **databases: str
) -> Summarize:
    publication = Publication.at(cache_url, namespace="aggregator")
    own = database or installation.database
    return Summarize(own, publication, "test", own_url=installation.url, databases=databases)
