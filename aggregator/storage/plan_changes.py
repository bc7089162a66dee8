"""What a plan consists of: changes of what is published, and partitions that go."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

Action = Literal["added", "changed", "removed"]


@dataclass(frozen=True)
class Change:
    """One entry that changes, and what follows, in words.

    `buckets`: how many of them are computed anew, or could be by a recomputation; `since`: from which on.
    `size_bytes`: what of it is stored and stays.
    """

    what: str
    name: str
    action: Action
    effect: str
    buckets: int | None = None
    since: datetime | None = None
    size_bytes: int | None = None


@dataclass(frozen=True)
class Drop:
    """An interval past its retention, with all that is stored of it. `held`: why it stays for now; None: it goes."""

    layer: str
    partition: str
    start: datetime
    end: datetime
    size_bytes: int
    held: str | None
