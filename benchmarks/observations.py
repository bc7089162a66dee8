"""What a load benchmark notes down: the state at its start and end, and what it sees in between."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from figures import Connection, Counters, counters, lag_seconds, newest_complete_bucket
from process_costs import Cost, costs

STEP = timedelta(minutes=1)


@dataclass
class Watched:
    """What is looked at once a second while the load runs."""

    lag_by_second: list[float] = field(default_factory=list)
    #: How long after its end a bucket was there for every series.
    bucket_delays: list[timedelta] = field(default_factory=list)
    peak_pss: dict[str, int] = field(default_factory=dict)
    #: Seconds of the monotonic clock and the costs then, once a minute.
    costs_by_minute: list[tuple[float, dict[str, Cost]]] = field(default_factory=list)
    _newest: datetime | None = None

    def look(self, connection: Connection) -> None:
        """Look once."""
        self.lag_by_second.append(lag_seconds(connection))
        newest = newest_complete_bucket(connection)
        if newest is not None and newest != self._newest:
            if self._newest is not None:
                self.bucket_delays.append(datetime.now(UTC) - newest - STEP)
            self._newest = newest

    def remember(self, found: dict[str, Cost]) -> None:
        """Keep the costs, and the most memory that each part ever held."""
        self.costs_by_minute.append((time.monotonic(), found))
        for part, cost in found.items():
            self.peak_pss[part] = max(cost.pss_bytes, self.peak_pss.get(part, 0))


@dataclass(frozen=True)
class Moment:
    """The counters of the database and the costs of the processes at one moment."""

    monotonic_seconds: float
    counters: Counters
    costs: dict[str, Cost]

    @classmethod
    def now(cls, connection: Connection) -> Moment:
        """This moment."""
        return cls(time.monotonic(), counters(connection), costs(os.getpid(), root_part="benchmark"))
