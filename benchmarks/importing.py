"""An import into a fresh database, as `aggregator import` does it, without a screen."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from aggregator.config.load import load_settings
from aggregator.exposition.history import Damage
from aggregator.stages.collect.spool_file import HistoryFile
from aggregator.stages.collect.spool_parts import State
from aggregator.stages.collect.spool_store import Stored
from aggregator.storage.bootstrap import bring_up
from aggregator.storage.migrate import upgrade
from aggregator.tasks.context import Context
from aggregator.tasks.importing import Import, Order


class Silent:
    """A screen that nobody looks at."""

    def waiting(self) -> None:
        """Nobody else imports the file."""

    def reading(self, state: State) -> None:
        """Show nothing."""

    def storing(self, stored: Stored, *, of_samples: int) -> None:
        """Show nothing."""

    def rolling_up(self) -> None:
        """Show nothing."""

    def damaged(self, place: str, damage: Damage) -> None:
        """Raises AssertionError: a dump of ours has no damage."""
        raise AssertionError(place, damage)


def whole(path: Path, url: str) -> None:
    """An import with all tiers."""
    variables = {"HOME": str(path.parent), "AGGREGATOR_NODE": "bench", "AGGREGATOR_DATABASE_URL": url}
    settings = load_settings(environment={**variables, "AGGREGATOR_DATA_DIR": str(path.parent / "data")})
    upgrade(url)
    bring_up(url, settings, now=datetime.now(UTC))
    Import(Context(settings), Order(HistoryFile.of(str(path), None), None, None, is_lenient=False), Silent()).run()
