"""The series of a target and its frame map: the append-only order that sample frames follow."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from aggregator.exposition.series import SeriesKey
from aggregator.storage import tables
from aggregator.storage.quantiles import are_sketched
from aggregator.storage.series_limit import require_room

#: A frame map may hold this many dead series beyond as many as are alive before a new one is begun.
CHURN_ALLOWANCE = 1_000


def identity_hash(key: SeriesKey) -> bytes:
    """Sixteen bytes for a series on its target: labels may be longer than a btree entry."""
    parts = [str(int(key.kind)), key.metric, *(part for label in key.labels for part in label)]
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).digest()


@dataclass(frozen=True)
class MappedTarget:
    """A target's current frame map: its id, and the place of each asked series in a frame (from 0)."""

    map_id: int
    places: tuple[int, ...]


def register(
    connection: Connection,
    target_id: int,
    keys: Sequence[SeriesKey],
    *,
    now: datetime,
    keep_map: bool = False,
    series_limit: int | None = None,
) -> MappedTarget:
    """Register series and append the missing ones to the target's frame map, under the target's lock.

    After much churn the target gets a new map; with `keep_map` only where it has none: old samples tell nothing of
    what is alive. This commits before any frame uses it. Raises SeriesLimitError where the target's source would have
    more than `series_limit` series. Uses indexes: series_target_id_identity_hash_key, frame_maps_pkey.
    """
    targets, maps = tables.targets, tables.frame_maps
    map_id = connection.execute(
        select(targets.c.map_id).where(targets.c.id == target_id).with_for_update(key_share=True)
    ).scalar_one()
    ids = ensure_series(connection, target_id, keys, now=now, series_limit=series_limit)
    listed: list[int] = []
    if map_id is not None:
        listed = list(connection.execute(select(maps.c.series_ids).where(maps.c.id == map_id)).scalar_one())
    known = set(listed)
    missing = [series_id for series_id in ids if series_id not in known]
    is_worn = not keep_map and len(listed) + len(missing) > 2 * len(ids) + CHURN_ALLOWANCE
    if map_id is None or (missing and is_worn):
        listed, missing = list(ids), []
        map_id = _begin_map(connection, target_id, listed, now=now)
    elif missing:
        append_to_map(connection, map_id, missing)
    place_of = {series_id: place for place, series_id in enumerate([*listed, *missing])}
    return MappedTarget(int(map_id), tuple(place_of[series_id] for series_id in ids))


def _begin_map(connection: Connection, target_id: int, series_ids: list[int], *, now: datetime) -> int:
    statement = insert(tables.frame_maps).values(target_id=target_id, series_ids=series_ids, created_at=now)
    map_id = int(connection.execute(statement.returning(tables.frame_maps.c.id)).scalar_one())
    connection.execute(update(tables.targets).where(tables.targets.c.id == target_id).values(map_id=map_id))
    return map_id


def ensure_series(
    connection: Connection,
    target_id: int,
    keys: Sequence[SeriesKey],
    *,
    now: datetime,
    series_limit: int | None = None,
) -> list[int]:
    """The ids of the keys, in their order; series that are new are inserted. Raises SeriesLimitError.

    Uses index: series_target_id_identity_hash_key.
    """
    hashes = [identity_hash(key) for key in keys]
    known = known_ids(connection, target_id)
    new = [(digest, key) for digest, key in zip(hashes, keys, strict=True) if digest not in known]
    if new:
        if series_limit is not None:
            require_room(connection, target_id, len(dict(new)), series_limit)
        _insert_series(connection, target_id, dict(new), now=now)
        known = known_ids(connection, target_id)
    return [known[digest] for digest in hashes]


# One statement for all of them: a large target's first scrape brings tens of thousands.
# Uses index: series_target_id_identity_hash_key.
_INSERT_SERIES = text(
    """
    INSERT INTO aggregator.series (target_id, kind, identity_hash, metric, labels, created_at, has_sketch)
    SELECT :target_id, one.kind, decode(one.digest, 'hex'), one.metric, one.labels, :now, one.has_sketch
    FROM unnest(
        CAST(:kinds AS smallint[]), CAST(:digests AS text[]), CAST(:metrics AS text[]), CAST(:labels AS jsonb[]),
        CAST(:sketched AS boolean[])
    ) AS one (kind, digest, metric, labels, has_sketch)
    ON CONFLICT DO NOTHING
    """
)


def _insert_series(connection: Connection, target_id: int, new: dict[bytes, SeriesKey], *, now: datetime) -> None:
    connection.execute(
        _INSERT_SERIES,
        {
            "target_id": target_id,
            "now": now,
            "kinds": [int(key.kind) for key in new.values()],
            "digests": [digest.hex() for digest in new],
            "metrics": [key.metric for key in new.values()],
            "labels": [json.dumps(dict(key.labels)) for key in new.values()],
            "sketched": are_sketched(connection, target_id, list(new.values())),
        },
    )


def known_ids(connection: Connection, target_id: int) -> dict[bytes, int]:
    """The ids of a target's series by `identity_hash`. Uses index: series_target_id_identity_hash_key."""
    table = tables.series
    rows = connection.execute(select(table.c.identity_hash, table.c.id).where(table.c.target_id == target_id))
    return {bytes(digest): series_id for digest, series_id in rows}


def maps_of(connection: Connection, map_ids: Sequence[int]) -> dict[int, list[int]]:
    """The series of frame maps, in their order. Uses index: frame_maps_pkey."""
    table = tables.frame_maps
    rows = connection.execute(select(table.c.id, table.c.series_ids).where(table.c.id.in_(list(map_ids))))
    return {row.id: list(row.series_ids) for row in rows}


def append_to_map(connection: Connection, map_id: int, series_ids: Sequence[int]) -> None:
    """Append series that the map lacks; the caller holds the target's lock. Uses index: frame_maps_pkey."""
    maps = tables.frame_maps
    connection.execute(
        update(maps).where(maps.c.id == map_id).values(series_ids=func.array_cat(maps.c.series_ids, list(series_ids)))
    )
