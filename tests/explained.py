"""A past with a reset, a late sample, missed slots and a lost node, and `aggregator explain` of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from aggregator.exposition.series import Kind
from aggregator.rollups.buckets import milliseconds
from aggregator.storage.engine import Database
from tests.installation import Installation, series_key
from tests.slots import OFFSET, claim_slot, collect_slot, store

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECOND, MINUTE, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(days=1)
STEP = 15 * SECOND
COUNTER = series_key("requests_total", 0, Kind.COUNTER)
GAUGE = series_key("temperature", 0, Kind.GAUGE)
MANY = [series_key(f"many_{place}", 0, Kind.GAUGE) for place in range(11)]

#: Runs `explain` in this process: URL, selector, instant, tier and options; gives exit code, output and errors.
Typed = Callable[..., tuple[int, str, str]]


def explained(typed: Typed, url: str, selector: str, at: datetime, tier: str) -> dict[str, Any]:
    """The one explanation, as JSON."""
    code, out, err = typed(url, selector, at, tier, "--json")
    assert code == 0, err
    found: list[dict[str, Any]] = json.loads(out)
    (one,) = found
    return one


def make_past(made: Installation) -> None:
    """A counter and a gauge from 11:59 to 12:06.

    No slot at 12:01:45 and 12:02:00, the counter begins anew at 12:02:30, 12:03:00 is lost by one node and taken over
    by another, and at 12:08 a sample of 12:02:02 comes.
    """
    (target,) = made.targets(1)
    for place in range(-4, 24):
        slot = START + place * STEP
        values = {COUNTER: 500.0 + 10 * place if place < 10 else 5.0 * (place - 10), GAUGE: 20.0 + place % 3}
        if place in (7, 8):
            continue
        if place == 12:
            claim_slot(made, target, slot, now=slot + OFFSET, node="web2", lease=3 * SECOND)
            made.now = slot + OFFSET + 4 * SECOND
            store(made, target, claim_slot(made, target, slot, now=made.now, node="web1"), values)
        else:
            collect_slot(made, target, slot, values)
        if place in (7, 19):
            made.now += 10 * SECOND
            made.roll_up()
    made.now = START + 7 * MINUTE
    made.roll_up()
    made.now = START + 8 * MINUTE
    made.collect(target, {milliseconds(START + 2 * MINUTE + OFFSET): {COUNTER: 583.0}})
    made.collect(target, {milliseconds(START + 7 * MINUTE): dict.fromkeys(MANY, 1.0)})
    made.now = START + 9 * MINUTE
    made.roll_up()


def url_of(database: Database) -> str:
    return database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
