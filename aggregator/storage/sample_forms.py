"""Samples change their form: frames of some targets in a span become sealed rows, and a sealed span frames again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

import numpy as np
from sqlalchemy import Connection, select

from aggregator.storage import forms, partitions, tables
from aggregator.storage.copying import from_wire_instant, wire_instants
from aggregator.storage.frame_columns import FrameColumns
from aggregator.storage.open_frames import Arrived, delete_between, read_arrived, write_open
from aggregator.storage.partitions import SAMPLES, SEALED_SAMPLES
from aggregator.storage.sealed_frames import count_sealed, delete_sealed, read_sealed_arrived, write_sealed
from aggregator.storage.sealed_samples import pack_frames
from aggregator.storage.sealed_spans import SAMPLE_SPANS

#: Samples that are packed or unpacked at once: a second's work, during which their targets are locked.
MOST_SAMPLES = 1_000_000
#: A target that has more in a span gets rows of parts of it, down to a sixteenth.
_MOST_PARTS = 16


def parts(samples: int, *, since: datetime, until: datetime) -> Iterator[tuple[datetime, datetime]]:
    """Half-open parts of a span, as many as it takes for none to have too many samples."""
    count = 1
    while samples > count * MOST_SAMPLES and count < _MOST_PARTS:
        count *= 2
    length = (until - since) / count
    yield from ((since + place * length, since + (place + 1) * length) for place in range(count))


def seal(connection: Connection, target_ids: Sequence[int], *, since: datetime, until: datetime) -> int:
    """Make one form of what targets have in one span, or in a part of it that has rows of its own; gives its samples.

    The caller holds the targets' locks and their shard's. Raises ValueError where anything would not come back.
    """
    for one in SEALED_SAMPLES:
        partitions.ensure(connection, one, since=since, until=until)
    edges = {"since": since, "until": until}
    before = read_sealed_arrived(connection, target_ids=target_ids, **edges)
    arrived = Arrived.joined([read_arrived(connection, target_ids=target_ids, **edges), before])
    if not len(arrived):
        return 0
    packed = pack_frames(arrived, start=int(wire_instants([since])[0]))
    delete_between(connection, target_ids=target_ids, **edges)
    if len(before):
        delete_sealed(connection, target_ids=target_ids, **edges)
    write_sealed(connection, packed)
    return int(arrived.frames.size.sum())


def unseal(connection: Connection, target_ids: Sequence[int], *, since: datetime, until: datetime) -> None:
    """Make frames again of what targets have sealed in one span. The caller holds their locks and their shard's."""
    edges = {"since": since, "until": until}
    partitions.ensure(connection, SAMPLES, **edges)
    for first, last in parts(count_sealed(connection, target_ids=target_ids, **edges), **edges):
        write_open(connection, [read_sealed_arrived(connection, target_ids=target_ids, since=first, until=last)])
    delete_sealed(connection, target_ids=target_ids, **edges)


def open_changed(connection: Connection, sealed: FrameColumns) -> None:
    """Unseal the spans that hold these frames, which are sealed and about to be changed.

    The caller holds the targets' locks; the lock of their shards is waited for.
    """
    if not len(sealed):
        return
    _lock_shards(connection, np.unique(sealed.target_id).tolist())
    length = SAMPLE_SPANS.length
    for target_id in np.unique(sealed.target_id).tolist():
        instants = sealed.at[sealed.target_id == target_id]
        starts = {SAMPLE_SPANS.bounds(from_wire_instant(at))[0] for at in instants.tolist()}
        for start in sorted(starts):
            unseal(connection, [target_id], since=start, until=start + length)
    forms.changing(connection)


def _lock_shards(connection: Connection, target_ids: Sequence[int]) -> None:
    """Lock the shards of targets in the order of their ids. Uses indexes: targets_pkey, shards_pkey."""
    shards, targets = tables.shards, tables.targets
    own = select(targets.c.shard_id).where(targets.c.id.in_(target_ids))
    statement = select(shards.c.id).where(shards.c.id.in_(own)).order_by(shards.c.id)
    connection.execute(statement.with_for_update(key_share=True))
