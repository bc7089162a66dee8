"""A glance at each observed machine: CPU, load, memory and the fullest disk, from its newest two sample frames."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Connection, Row, bindparam, text

from aggregator.storage import tables

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Older frames say nothing of now. No frame is sealed before it is as old.
NEWEST_WITHIN = timedelta(minutes=5)
MOST_HOSTS = 100
REMEMBERED_FOR = timedelta(minutes=1)

_CPU = "node_cpu_seconds_total"
_LOAD = "node_load1"
_MEMORY = ("node_memory_MemTotal_bytes", "node_memory_MemAvailable_bytes")
_DISK = ("node_filesystem_size_bytes", "node_filesystem_avail_bytes")
_METRICS = (_CPU, _LOAD, *_MEMORY, *_DISK)
_IDLE_MODES = frozenset({"idle", "iowait"})


@dataclass(frozen=True)
class Glance:
    """How one machine does; ratios are between 0 and 1, None where its samples do not tell."""

    instance: str
    cpu_busy_ratio: float | None
    load1: float | None
    memory_used_ratio: float | None
    disk_fullest_ratio: float | None
    disk_mountpoint: str | None


class Reading(NamedTuple):
    """One value of a frame with the series it belongs to; `label` is the CPU and mode, or the mount point."""

    metric: str
    label: str
    value: float


class _Place(NamedTuple):
    position: int
    metric: str
    label: str


# Uses index: sample_frame_pkey, from its newest end.
_FRAMES = text(
    """
    SELECT t.labels ->> 'instance' AS instance, frame.map_id, frame."values" AS values_, frame.places
    FROM aggregator.targets AS t
    JOIN aggregator.sources AS s ON s.id = t.source_id AND s.kind = 'host' AND s.active
    CROSS JOIN LATERAL (
        SELECT f.map_id, f.at, f."values", f.places FROM aggregator.sample_frame AS f
        WHERE f.target_id = t.id AND f.at > :since ORDER BY f.at DESC LIMIT 2
    ) AS frame
    WHERE t.active
    ORDER BY instance, t.id, frame.at DESC
    LIMIT :most
    """
).bindparams(bindparam("since", type_=tables.nodes.c.last_seen.type))

_PLACES = text(
    """
    SELECT place.position, s.metric,
        coalesce(s.labels ->> 'mountpoint', (s.labels ->> 'mode') || ' ' || (s.labels ->> 'cpu'), '') AS label
    FROM aggregator.frame_maps AS m
    CROSS JOIN unnest(m.series_ids) WITH ORDINALITY AS place (series_id, position)
    JOIN aggregator.series AS s ON s.id = place.series_id
    WHERE m.id = :map_id AND s.metric IN :metrics
    """
).bindparams(bindparam("metrics", value=_METRICS, expanding=True))


class GlanceReader:
    """Reads glances; remembers for a while which positions of a frame map it needs, until the map has grown.

    For a while: an older database may have been restored behind the connection.
    """

    def __init__(self) -> None:
        self._since: datetime | None = None
        self._places: dict[int, tuple[int, tuple[_Place, ...]]] = {}

    def read(self, connection: Connection, *, now: datetime) -> tuple[Glance, ...]:
        """A glance at each host that sent samples within the last five minutes, by instance."""
        if self._since is None or abs(now - self._since) > REMEMBERED_FOR:
            self._since = now
            self._places.clear()
        frames: dict[str, list[Sequence[Reading]]] = {}
        for row in connection.execute(_FRAMES, {"since": now - NEWEST_WITHIN, "most": 2 * MOST_HOSTS}).all():
            frames.setdefault(row.instance, []).append(self._readings(connection, row))
        return tuple(glance(instance, *readings[:2]) for instance, readings in frames.items())

    def _readings(self, connection: Connection, frame: Row[Any]) -> list[Reading]:
        # A sparse frame lists the places of its values; a dense one has them from the first on.
        values = dict(zip(frame.places or range(1, len(frame.values_) + 1), frame.values_, strict=True))
        length = max(values, default=0)
        known = self._places.get(frame.map_id)
        if known is None or known[0] < length:
            rows = connection.execute(_PLACES, {"map_id": frame.map_id})
            known = self._places[frame.map_id] = (length, tuple(_Place(*row) for row in rows))
        found = ((place, values.get(place.position)) for place in known[1])
        return [
            Reading(place.metric, place.label, value)
            for place, value in found
            if value is not None and not math.isnan(value)
        ]


def glance(instance: str, newest: Sequence[Reading], previous: Sequence[Reading] = ()) -> Glance:
    """A glance from the readings of two instants; without the previous ones the CPU's share is not known."""
    single = {reading.metric: reading.value for reading in newest if not reading.label}
    fullest = max(_disks(newest), default=None)
    total, available = (single.get(metric) for metric in _MEMORY)
    return Glance(
        instance=instance,
        cpu_busy_ratio=_cpu_busy_ratio(newest, previous),
        load1=single.get(_LOAD),
        memory_used_ratio=1 - available / total if total and available is not None else None,
        disk_fullest_ratio=fullest[0] if fullest else None,
        disk_mountpoint=fullest[1] if fullest else None,
    )


def _cpu_busy_ratio(newest: Sequence[Reading], previous: Sequence[Reading]) -> float | None:
    """The share of CPU time between two instants that was neither idle nor waiting; a counter that fell counts 0."""
    before = {reading.label: reading.value for reading in previous if reading.metric == _CPU}
    spent = {
        reading.label: max(0.0, reading.value - before[reading.label])
        for reading in newest
        if reading.metric == _CPU and reading.label in before
    }
    total = sum(spent.values())
    idle = sum(seconds for label, seconds in spent.items() if label.partition(" ")[0] in _IDLE_MODES)
    return (total - idle) / total if total > 0 else None


def _disks(newest: Sequence[Reading]) -> list[tuple[float, str]]:
    size, available = (_by_label(newest, metric) for metric in _DISK)
    return [(1 - available[mount] / size[mount], mount) for mount in size if size[mount] > 0 and mount in available]


def _by_label(readings: Sequence[Reading], metric: str) -> Mapping[str, float]:
    return {reading.label: reading.value for reading in readings if reading.metric == metric}
