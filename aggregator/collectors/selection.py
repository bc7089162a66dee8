"""From the series that a target exposes to the batches that are stored: named in full, chosen, each series once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from aggregator.collectors.labels import Labelling
from aggregator.collectors.outcome import REPORTED, report_keys, report_values
from aggregator.collectors.protocol import Batch, Collected, Target
from aggregator.errors import RejectedError
from aggregator.exposition.exposed import NO_TIMESTAMP_MS, ExposedSeries, Exposition
from aggregator.exposition.series import SeriesKey

#: A timestamp further ahead is a clock gone wrong, not a measurement.
MOST_AHEAD = timedelta(minutes=10)
#: Each instant is a frame as wide as the target's series: a thousand are a large federation, more are a mistake.
MOST_INSTANTS = 1_000
#: How often over a target's samples may stand in remembered picks: those of a few scrapes, no more.
_MOST_REMEMBERED_FACTOR = 4
_LEFT_OUT = -1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


class Pick(NamedTuple):
    """The samples of one instant: which series they are, where their values stand, and how many were there twice."""

    keys: tuple[SeriesKey, ...]
    places: npt.NDArray[np.int64]
    duplicates: int


@dataclass
class Selection:
    """What becomes of one tuple of exposed series. `identities[i]` is the place in `keys` of exposed series i.

    `keys` begins with the report series; -1 stands for a series that `keep` and `drop` leave out. Two exposed series
    that are the same once all labels are merged have the same identity, and the first of them is kept.
    """

    exposed: tuple[ExposedSeries, ...]
    keys: tuple[SeriesKey, ...]
    identities: npt.NDArray[np.int64]
    picks: dict[bytes | None, Pick] = field(default_factory=dict)
    remembered_places: int = 0

    @classmethod
    def of(cls, exposed: tuple[ExposedSeries, ...], target: Target, labelling: Labelling) -> Selection:
        """Name and choose the series of a target."""
        keys = list(report_keys(target))
        known = {(key.metric, key.labels): identity for identity, key in enumerate(keys)}
        identities = np.full(len(exposed), _LEFT_OUT, dtype=np.int64)
        for place, one in enumerate(exposed):
            key = labelling.series(one.metric, dict(one.labels), one.kind, target_labels=target.labels)
            if key is not None:
                identities[place] = known.setdefault((key.metric, key.labels), len(keys))
                if identities[place] == len(keys):
                    keys.append(key)
        return cls(exposed, tuple(keys), identities)

    def collected(self, target: Target, exposition: Exposition, *, started_at: datetime, seconds: float) -> Collected:
        """The batches of one scrape that succeeded, the first of them at `started_at`. Raises RejectedError."""
        report = report_values(up=True, duration_seconds=seconds, scraped=len(exposition.values))
        own, stamped, out_of_range = _by_instant(exposition, started_at)
        first = self._pick(own, with_report=True)
        values = exposition.values
        batches = [Batch(started_at, first.keys, np.concatenate((report, values[first.places])))]
        duplicates = first.duplicates
        for milliseconds, places in stamped:
            pick = self._pick(places, with_report=False)
            duplicates += pick.duplicates
            if not np.isnan(values[pick.places]).all():
                batches.append(Batch(_EPOCH + milliseconds * _MILLISECOND, pick.keys, values[pick.places]))
        samples = sum(int(np.count_nonzero(~np.isnan(batch.values))) for batch in batches) - len(REPORTED)
        counts = {"duplicate": duplicates, "timestamp": out_of_range}
        rejected = {reason: count for reason, count in counts.items() if count}
        return Collected(target, started_at, seconds, tuple(batches), samples=samples, rejected=rejected)

    def _pick(self, places: npt.NDArray[np.int64] | None, *, with_report: bool) -> Pick:
        """What is kept of the samples at these places (None: of all), the same object each time."""
        remembered = None if places is None else places.tobytes() + bytes([with_report])
        if remembered not in self.picks:
            chosen = np.arange(len(self.exposed), dtype=np.int64) if places is None else places
            self.remembered_places += len(chosen)
            if self.remembered_places > _MOST_REMEMBERED_FACTOR * len(self.exposed):
                self.picks.clear()
                self.remembered_places = len(chosen)
            self.picks[remembered] = self._make_pick(chosen, with_report=with_report)
        return self.picks[remembered]

    def _make_pick(self, places: npt.NDArray[np.int64], *, with_report: bool) -> Pick:
        places = places[self.identities[places] != _LEFT_OUT]
        identities, firsts = np.unique(self.identities[places], return_index=True)
        if with_report:
            firsts = firsts[identities >= len(REPORTED)]
            identities = identities[identities >= len(REPORTED)]
        keys = tuple(self.keys[identity] for identity in identities)
        leading = self.keys[: len(REPORTED)] if with_report else ()
        return Pick(leading + keys, places[firsts], len(places) - len(firsts))


def _by_instant(
    exposition: Exposition, started_at: datetime
) -> tuple[npt.NDArray[np.int64] | None, Iterator[tuple[int, npt.NDArray[np.int64]]], int]:
    """The places of samples without a timestamp (None: of all), those of each other instant, and how many are out."""
    stamps = exposition.timestamps_ms
    if stamps is None:
        return None, iter(()), 0
    latest = (started_at + MOST_AHEAD - _EPOCH) // _MILLISECOND
    is_own = stamps == NO_TIMESTAMP_MS
    is_right = (stamps > 0) & (stamps <= latest)
    return np.flatnonzero(is_own), _instants(stamps, np.flatnonzero(is_right)), int((~is_own & ~is_right).sum())


def _instants(
    stamps: npt.NDArray[np.int64], places: npt.NDArray[np.int64]
) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    ordered = places[np.argsort(stamps[places], kind="stable")]
    instants, starts = np.unique(stamps[ordered], return_index=True)
    if len(instants) > MOST_INSTANTS:
        raise RejectedError(
            "too_many_timestamps",
            f"the samples carry {len(instants):,} different timestamps, more than {MOST_INSTANTS:,};"
            " set honor_timestamps = false, or ask for fewer targets at once",
        )
    for instant, part in zip(instants, np.split(ordered, starts[1:]), strict=bool(len(instants))):
        yield int(instant), part
