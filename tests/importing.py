"""Imports into installations of their own, in this process or as processes, and dumps to be imported."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import text

from aggregator.config.model import Settings
from aggregator.exposition.history import Damage
from aggregator.stages.collect.spool_file import HistoryFile
from aggregator.stages.collect.spool_parts import State
from aggregator.stages.collect.spool_store import Stored
from aggregator.storage.engine import Database
from aggregator.tasks.context import Context
from aggregator.tasks.importing import Import, Order, Report
from tests.installation import settings_for
from tests.templates import BroughtUp

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
START_SECONDS = int(NOW.timestamp()) - 3 * 86_400
VIEWS = ("samples", "metrics_1m", "metrics_5m", "metrics_1h", "metrics_1d")

#: Columns that number what was registered, in the order in which it came.
_NUMBERS = "'{series_id,shard_id,target_id}'"


class Silent:
    """A screen that nobody looks at."""

    def __init__(self) -> None:
        self.damages: list[tuple[str, str]] = []

    def waiting(self) -> None: ...

    def reading(self, state: State) -> None: ...

    def storing(self, stored: Stored, *, of_samples: int) -> None: ...

    def rolling_up(self) -> None: ...

    def damaged(self, place: str, damage: Damage) -> None:
        self.damages.append((place, damage.reason))


class Site:
    """A published installation in a database of its own, and imports into it."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        folder.mkdir(exist_ok=True)
        self.variables = {"AGGREGATOR_DATABASE_URL": url, "AGGREGATOR_DATA_DIR": str(folder / "data")}
        self.settings: Settings = settings_for(folder, **self.variables)
        self.context = Context(self.settings, clock=lambda: NOW)

    def run(
        self, path: Path, *, source: str | None = None, is_lenient: bool = False, screen: Silent | None = None
    ) -> Report:
        order = Order(HistoryFile.of(str(path), None), source, None, is_lenient=is_lenient)
        return Import(self.context, order, screen or Silent()).run()

    def start(self, *arguments: object) -> subprocess.Popen[bytes]:
        """`aggregator import` as a process."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "AGGREGATOR_NODE": "test",
            **self.variables,
        }
        command = [sys.executable, "-m", "aggregator", "import", *map(str, arguments)]
        root = Path(__file__).parents[1]
        return subprocess.Popen(
            command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )

    def rows(self) -> dict[str, list[str]]:
        """All rows of all views, as text: floats to their last bit. Numbers of series and shards are left out."""
        rows = f"SELECT to_jsonb(v) - {_NUMBERS}::text[] FROM aggregator."  # noqa: S608 - ours
        return {view: sorted(str(row) for row in self.ask(f"{rows}{view} v")) for view in VIEWS}

    def ask(self, statement: str) -> list[tuple[object, ...]]:
        with self.database.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(statement))]

    @property
    def database(self) -> Database:
        return self.context.database

    @property
    def spools(self) -> list[Path]:
        return [path for path in (self.folder / "data" / "imports").glob("*") if path.is_dir()]


Sites = Callable[[str], Site]


@contextmanager
def making_sites(brought_up: BroughtUp, folder: Path) -> Iterator[Sites]:
    """Makes sites by name, and drops their databases in the end."""
    with ExitStack() as ends:

        def make(name: str) -> Site:
            url = ends.enter_context(brought_up.copied(settings_for(folder), NOW))
            site = Site(url, folder / name)
            ends.callback(site.database.dispose)
            return site

        yield make


def dump_lines(seed: int = 1, *, targets: int = 2, seconds: int = 3_600) -> list[str]:
    """A dump, series by series: gauges and counters with resets, gaps and a stale marker, over two midnights apart."""
    randomness = random.Random(seed)  # noqa: S311 - a test's own randomness
    lines: list[str] = []
    for target in range(targets):
        for metric in ("load", "requests_total", "heat"):
            labels = f'instance="t{target}:9100",job="node"' + (',path="/a b"' if metric == "heat" else "")
            at, value = float(START_SECONDS + 84_000), 100.0
            while at < START_SECONDS + 84_000 + seconds:
                at += 400 if randomness.random() < 0.02 else randomness.choice([14.9, 15, 15.1])
                value = randomness.choice([0, value, value + randomness.randrange(999) / 8])
                lines.append(f"{metric}{{{labels}}} {'NaN' if value == 100 else repr(value)} {at:.3f}")
    return lines


def written(path: Path, lines: list[str]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines) + "# EOF\n")
    return path
