"""What a fault is, how it is endured, and what is noted of it: seconds from its end to the next collection."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.acceptance.faults.scene import Scene, note
from tests.acceptance.ledger_check import Outage

REPORT_VARIABLE = "AGGREGATOR_TEST_FAULT_REPORT"
#: How many times as long as promised a recovery may take, on a machine that does other work as well.
PATIENCE_VARIABLE = "AGGREGATOR_TEST_PATIENCE"
_PATIENCE = "6"
LONG_VARIABLE = "AGGREGATOR_TEST_LONG_FAULTS"
RESTART = timedelta(seconds=10)
HALF_OPEN = timedelta(seconds=60)
#: The longest that a fault may take until it is felt.
SHOWN_WITHIN = timedelta(minutes=2)
#: For so long after recovery a shard may still miss slots: its first one is claimed a while after the others'.
_CATCHING_UP = timedelta(seconds=60)

IS_LONG = os.environ.get(LONG_VARIABLE) == "1"


def lasting(quick_seconds: float, long_seconds: float) -> timedelta:
    """How long a fault lasts: the environment asks for the long variant (AGGREGATOR_TEST_LONG_FAULTS=1)."""
    return timedelta(seconds=long_seconds if IS_LONG else quick_seconds)


def nothing(_: Scene) -> None:
    """There is nothing to be done."""


def at_once(_: Scene) -> bool:
    """A fault that is there as soon as it is injected."""
    return True


@dataclass(frozen=True)
class Fault:
    """What is done to a scene, and what is expected of it.

    `inject` begins it; once `shows` is true of the scene and after `lasts` more, `heal` ends it. From then on the next
    collection is awaited: `limit` is promised. `is_restorable`: it can be mixed with others, again and again.
    """

    name: str
    expected: str
    inject: Callable[[Scene], None]
    heal: Callable[[Scene], None] = nothing
    lasts: timedelta = timedelta(seconds=2)
    limit: timedelta = RESTART
    is_restorable: bool = True
    shows: Callable[[Scene], bool] = at_once


@dataclass(frozen=True)
class Endured:
    """How a scene came through a fault: seconds from its end to the next collection, and until all shards had one."""

    fault: Fault
    began: datetime
    ended: datetime
    seconds: float
    all_seconds: float

    @property
    def row(self) -> dict[str, Any]:
        """As the report has it."""
        return {
            "fault": self.fault.name,
            "expected": self.fault.expected,
            "seen": f"every source again after {self.all_seconds:.1f} s",
            "seconds": round(self.seconds, 1),
            "limit": self.fault.limit.total_seconds(),
        }


class NotRecoveredError(AssertionError):
    """No collection came after a fault, or it came too late."""


def patience(limit: timedelta) -> timedelta:
    """The longest that a recovery may take here."""
    return limit * float(os.environ.get(PATIENCE_VARIABLE, _PATIENCE))


def endure(scene: Scene, fault: Fault) -> Endured:
    """Inject a fault, heal it, and wait for the collections that follow; raises NotRecoveredError."""
    wanted = scene.shards()
    began = datetime.now(UTC)
    fault.inject(scene)
    assert scene.wait(lambda: fault.shows(scene), SHOWN_WITHIN), f"{fault.name}: nobody has felt it"
    scene.live(fault.lasts)
    fault.heal(scene)
    ended = datetime.now(UTC)
    return _recovered(scene, fault, wanted, began=began, ended=ended)


def _recovered(scene: Scene, fault: Fault, wanted: set[str], *, began: datetime, ended: datetime) -> Endured:
    allowed = patience(fault.limit)
    found: dict[str, datetime] = {}
    first = all_seconds = None
    deadline = time.monotonic() + allowed.total_seconds() + _CATCHING_UP.total_seconds()

    def is_over() -> bool:
        nonlocal found
        found = scene.collected_since(ended)
        return wanted <= set(found)

    is_whole = scene.wait(is_over, timedelta(seconds=deadline - time.monotonic()))
    scene.outages.append(Outage(began, datetime.now(UTC)))
    if found:
        first = (min(found.values()) - ended).total_seconds()
        all_seconds = (max(found.values()) - ended).total_seconds()
    if first is None or all_seconds is None or not is_whole or first > allowed.total_seconds():
        raise NotRecoveredError(f"{fault.name}: first after {first} s, without {sorted(wanted - set(found))}")
    endured = Endured(fault, began, ended, first, all_seconds)
    note(REPORT_VARIABLE, endured.row)
    return endured


def endure_all(scene: Scene, faults: Iterable[Fault]) -> list[Endured]:
    """One fault after the other."""
    return [endure(scene, fault) for fault in faults]


def table(rows: Iterable[dict[str, Any]]) -> str:
    """The report as a table of Markdown."""
    lines = ["| fault | expected | seen | seconds to recover |", "| --- | --- | --- | --- |"]
    lines += [f"| {one['fault']} | {one['expected']} | {one['seen']} | {one['seconds']} |" for one in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()))  # noqa: T201 - its purpose
