"""Frames to be sealed: two targets with several frame maps, what is written to them, and everything that reads them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from sqlalchemy import insert, text

from aggregator.config.selector import parse_selector
from aggregator.exposition.series import Kind, SeriesKey
from aggregator.storage import explain, explain_samples, frames, partitions, recompute_frames, registry, tables
from aggregator.storage.engine import Connection
from aggregator.storage.frame_columns import FrameColumns
from aggregator.storage.frames import Frame, Written
from aggregator.storage.recompute import scope_of
from aggregator.storage.sample_sealing import seal_some
from aggregator.storage.series import register
from tests.installation import Installation

SPANS = (datetime(2026, 3, 1, 4, tzinfo=UTC), datetime(2026, 3, 1, 8, tzinfo=UTC))
SINCE, UNTIL = SPANS[0], SPANS[1] + timedelta(hours=4)
#: A frame is here, and two readers' intervals end or begin here.
EDGE = SPANS[0] + timedelta(hours=1)
TARGETS, SERIES, MAPS = 2, 12, 3
Rows = list[tuple[Any, ...]]


@contextmanager
def undone(installation: Installation) -> Iterator[Connection]:
    """A transaction of which nothing stays."""
    with installation.database.engine.connect() as connection, connection.begin() as transaction:
        yield connection
        transaction.rollback()


@dataclass(frozen=True)
class Sealable:
    """Targets of one shard, by target their frame maps, which have the same series in other orders, and selectors."""

    shard_id: int
    maps: dict[int, list[int]]
    selectors: tuple[str, ...]

    @classmethod
    def make(cls, installation: Installation) -> Sealable:
        """Make them; gauges and counters in turn."""
        targets = installation.targets(TARGETS)

        def work(connection: Connection) -> Sealable:
            weights = dict.fromkeys([target.id for target in targets], SERIES)
            shard_id = registry.assign_shards(connection, installation.source_id, weights)[targets[0].id]
            maps = {target.id: cls._maps(connection, target.id, target.labels) for target in targets}
            partitions.ensure(connection, partitions.SAMPLES, since=SINCE, until=UNTIL)
            return cls(shard_id, maps, tuple(f'{_metric(place)}{{instance="t0"}}' for place in range(2, 5)))

        return installation.database.run(work)

    @staticmethod
    def _maps(connection: Connection, target_id: int, labels: tuple[tuple[str, str], ...]) -> list[int]:
        """The first has all series, the second is turned round and has some only, the third has few."""
        keys = [SeriesKey(_metric(place), labels, _kind(place)) for place in range(SERIES)]
        mapped = register(connection, target_id, keys, now=SINCE)
        (first,) = connection.execute(
            text("SELECT series_ids FROM aggregator.frame_maps WHERE id = :id"), {"id": mapped.map_id}
        ).one()
        statement = insert(tables.frame_maps).returning(tables.frame_maps.c.id)
        others = [
            connection.execute(statement.values(target_id=target_id, series_ids=ids, created_at=SINCE)).scalar_one()
            for ids in (first[:2:-1], first[3:5])
        ]
        return [mapped.map_id, *others]

    def seal(self, connection: Connection, *, now: datetime = UNTIL) -> int:
        """Seal both spans; gives how many samples."""
        sealed = 0
        for start in SPANS:
            while (some := seal_some(connection, shard_id=self.shard_id, start=start, now=now)) is not None:
                sealed += some
        return sealed

    def observed(self, connection: Connection) -> dict[str, Rows]:
        """What every reader of samples finds, in parts of the interval too."""
        found: dict[str, Rows] = {}
        for since, until in ((SINCE, UNTIL), (SINCE, EDGE), (EDGE, SPANS[1] + timedelta(minutes=9))):
            where = {"target_ids": sorted(self.maps), "since": since, "until": until}
            name = f"{since:%H:%M}-{until:%H:%M}"
            found[f"columns {name}"] = columns_as_rows(frames.read_columns(connection, **where))
            stored = frames.read_frames_as_stored(connection, **where)
            found[f"stored {name}"] = sorted(map(_frame_as_row, stored))
            dense = frames.read_frames(connection, **where)
            found[f"dense {name}"] = sorted(map(_frame_as_row, dense))
            found[f"view {name}"] = _view(connection, since, until)
            found[f"range {name}"] = _range(connection, '{job="scripted"}', since, until)
            for selector in self.selectors:
                found[f"explain {selector} {name}"] = _explain(connection, selector, since, until)
            scope = scope_of(connection, parse_selector('{job="scripted"}'))
            edges = {"since": since, "until": until}
            found[f"newest {name}"] = [(recompute_frames.newest_frame(connection, scope, **edges),)]
            grain = timedelta(minutes=1)
            found[f"times {name}"] = sorted(recompute_frames.frame_times(connection, scope, grain=grain, **edges))
        return found


def _metric(place: int) -> str:
    return f"g{place}" if place % 2 else f"c{place}_total"


def _kind(place: int) -> Kind:
    return Kind.GAUGE if place % 2 else Kind.COUNTER


def bits(values: np.ndarray) -> list[int]:
    """The bits of doubles; of a NaN, those of the one that is always meant."""
    return np.where(np.isnan(values), np.nan, values).view(np.int64).tolist()


def columns_as_rows(found: FrameColumns) -> Rows:
    """A frame in each row."""
    edges = np.cumsum(found.size)[:-1]
    places, values = (np.split(one, edges)[: len(found)] for one in (found.place, found.value))
    keys = (found.target_id.tolist(), found.map_id.tolist(), found.at.tolist())
    return [
        (*key, place.tolist(), bits(value))
        for key, place, value in zip(zip(*keys, strict=True), places, values, strict=True)
    ]


def _frame_as_row(frame: Frame) -> tuple[Any, ...]:
    places = [] if frame.places is None else frame.places.tolist()
    return frame.at, frame.target_id, frame.map_id, places, bits(frame.values)


def _view(connection: Connection, since: datetime, until: datetime) -> Rows:
    statement = text(
        "SELECT time, metric, labels::text, job, instance, encode(float8send(value), 'hex'), series_id, kind"
        " FROM aggregator.samples WHERE time >= :since AND time < :until ORDER BY series_id, time"
    )
    return [tuple(row) for row in connection.execute(statement, {"since": since, "until": until})]


def _range(connection: Connection, selector: str, since: datetime, until: datetime) -> Rows:
    statement = text("SELECT * FROM aggregator.metric_range(:selector, :since, :until, 15000)")
    where = {"selector": selector, "since": since, "until": until}
    return sorted(tuple(map(repr, row)) for row in connection.execute(statement, where))


def _explain(connection: Connection, selector: str, since: datetime, until: datetime) -> Rows:
    (series,) = explain.find_series(connection, parse_selector(selector), limit=2)
    found = explain_samples.read_samples(connection, series, since=since, until=until)
    last = explain_samples.last_sample(connection, series, since=since, until=until)
    return [(one.at, repr(one.value), one.received_at) for one in (*found, *([last] if last else []))]


def written_as_rows(written: Written) -> Rows:
    """What a writer was told."""
    return [*columns_as_rows(written.changed), (written.added,), (sorted(written.differing.items()),)]
