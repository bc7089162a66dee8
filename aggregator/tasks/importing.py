"""An import from its file to its rollups: spool, store, roll up; what was interrupted goes on where it ended."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Protocol

from aggregator.config.source_model import Limits
from aggregator.errors import AggregatorError, DamagedFileError
from aggregator.exposition.history import Damage
from aggregator.stages.collect.history import HistoryStore
from aggregator.stages.collect.spool import SpoolWriter, added
from aggregator.stages.collect.spool_directory import held_spool, remove_forgotten, remove_spool
from aggregator.stages.collect.spool_file import HistoryFile
from aggregator.stages.collect.spool_parts import State
from aggregator.stages.collect.spool_store import SpoolStore, Stored
from aggregator.stages.collect.spooling import Spooling
from aggregator.storage import ledger, runs
from aggregator.storage.engine import Connection, StorageError
from aggregator.tasks.context import Context

STAGE = "import"
#: A stretch of rolling up; when it is over, what is due is asked for again.
_ROLLUP_BUDGET = timedelta(minutes=1)
#: How long to wait where another process rolls up our shards.
_LOOK_AGAIN_SECONDS = 0.2


@dataclass(frozen=True)
class Order:
    """What is to be imported, and how.

    `source` overrules the label `job`; `interval` is that of sources that do not exist yet; `is_lenient`: damaged lines
    are skipped and counted.
    """

    file: HistoryFile
    source: str | None
    interval: timedelta | None
    is_lenient: bool


class Screen(Protocol):
    """Where an import shows how far it is."""

    def waiting(self) -> None:
        """Another process imports this very file; this one goes on when that has ended."""

    def reading(self, state: State) -> None:
        """The file has been read as far as this."""

    def storing(self, stored: Stored, *, of_samples: int) -> None:
        """So much has been stored."""

    def rolling_up(self) -> None:
        """What was stored is being rolled up."""

    def damaged(self, place: str, damage: Damage) -> None:
        """A line is skipped; `place` is `file:line`."""


@dataclass(frozen=True)
class Report:
    """What became of a file: `read` samples are `stored`, `unchanged`, `replaced` or refused; `skipped`: lines."""

    read: int
    stored: int
    unchanged: int
    replaced: int
    nans: int
    refused: dict[str, int]
    skipped: dict[str, int]
    seconds: float

    @property
    def is_whole(self) -> bool:
        """Whether nothing was refused or skipped."""
        return not self.refused and not self.skipped


@dataclass(frozen=True)
class Import:
    """One import in this process."""

    here: Context
    order: Order
    screen: Screen

    def run(self) -> Report:
        """Import the file; gives what became of its samples. Raises DamagedFileError, with nothing stored."""
        started = time.monotonic()
        root = self.here.settings.data_dir / "imports"
        remove_forgotten(root, now_seconds=self.here.clock().timestamp())
        identity = self.order.file.identity(self.order.source or "")
        with held_spool(root, identity, waiting=self.screen.waiting) as directory, self._recorded() as record:
            try:
                state = self._spool(directory)
                stored = self._store(directory, state)
            except DamagedFileError:
                remove_spool(directory)
                raise
            remove_spool(directory)
            record(stored.samples)
        return Report(
            read=state.samples,
            stored=stored.samples - stored.unchanged - stored.replaced,
            unchanged=stored.unchanged,
            replaced=stored.replaced,
            nans=state.nans,
            refused=added(state.refused, stored.refused),
            skipped=state.damaged,
            seconds=time.monotonic() - started,
        )

    def _spool(self, directory: Path) -> State:
        writer = SpoolWriter.go_on(directory, source=self.order.source)
        return Spooling(self.order.file, writer, Limits(), self._damaged, self.screen.reading).run(self.here.clock)

    def _damaged(self, damage: Damage) -> None:
        place = f"{self.order.file.name}:{damage.line}"
        if not self.order.is_lenient:
            raise DamagedFileError(
                f"{place}: {damage.message}; nothing was stored. Mend the file, or skip such lines with --keep-going"
            )
        self.screen.damaged(place, damage)

    def _store(self, directory: Path, state: State) -> Stored:
        of_samples = state.samples - sum(state.refused.values())
        return SpoolStore(
            directory,
            HistoryStore(self.here.database),
            self.order.source,
            self.order.interval,
            self.here.clock,
            self._roll_up,
            partial(self.screen.storing, of_samples=of_samples),
        ).run()

    def _roll_up(self, shard_ids: frozenset[int]) -> None:
        """Roll up until nothing of these shards is due; workers may help."""
        self.screen.rolling_up()

        def is_due(connection: Connection) -> bool:
            return bool(ledger.due_shards(connection, now=self.here.clock(), only=shard_ids))

        while self.here.database.run(is_due):
            if not self.here.rollup.run(self.here.clock, budget=_ROLLUP_BUDGET, only=shard_ids):
                time.sleep(_LOOK_AGAIN_SECONDS)

    @contextlib.contextmanager
    def _recorded(self) -> Iterator[_Record]:
        """A row in `runs`; where the import fails, with the reason."""
        database, node, clock = self.here.database, self.here.settings.node, self.here.clock
        begin = partial(runs.begin, stage=STAGE, subject=self.order.file.name, node=node, now=clock())
        run_id = database.run(begin)

        def finish(outcome: str, rows: int, error: str | None = None) -> None:
            database.run(partial(runs.finish, run_id=run_id, outcome=outcome, rows=rows, now=clock(), error=error))

        try:
            yield partial(finish, "ok")
        except (AggregatorError, StorageError, OSError, KeyboardInterrupt) as error:
            said = str(getattr(error, "orig", None) or error).strip() or type(error).__name__
            with contextlib.suppress(AggregatorError, StorageError):  # the server itself may be what failed
                finish("failed", 0, said.splitlines()[0])
            raise


class _Record(Protocol):
    """Records the end of a run that went well."""

    def __call__(self, rows: int, /) -> None:
        """`rows`: samples that were taken."""
