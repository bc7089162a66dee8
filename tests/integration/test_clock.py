"""A clock that jumps: what it did in the future does not block the present, and what is not old is not dropped."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from aggregator.cli.app import run
from aggregator.collectors.protocol import Target
from aggregator.errors import ClockDiffersError
from aggregator.exposition.series import Kind
from aggregator.stages.maintain import Maintain
from aggregator.storage import runs
from aggregator.storage.future import free_slots
from aggregator.storage.retention import CLOCK
from aggregator.tasks.context import Context
from tests.installation import Installation, series_key
from tests.slots import OFFSET, claim_slot, collect_slot

START = datetime(2026, 3, 1, 8, tzinfo=UTC)
INTERVAL = timedelta(seconds=15)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
GAUGE = series_key("g", 0, Kind.GAUGE)
SLOTS = "SELECT first_slot, last_slot, slots_missed FROM aggregator.shard_slots"
CLAIMED = "SELECT count(*) FILTER (WHERE NOT by_hand), count(*) FILTER (WHERE by_hand) FROM aggregator.collections"


def asked(installation: Installation, statement: str) -> tuple[object, ...]:
    with installation.database.engine.connect() as connection:
        return tuple(connection.execute(text(statement)).one())


def wake(installation: Installation, slot: datetime) -> int | None:
    """As a worker reads the wake of a slot; gives what was freed."""

    def work(connection: object) -> int | None:
        freed = free_slots(connection, now=slot + OFFSET)  # type: ignore[arg-type] # a connection
        runs.woken(connection, "collect:scripted", slot=slot, interval=INTERVAL, now=slot + OFFSET)  # type: ignore[arg-type] # as above
        return freed

    return installation.database.run(work)


def collect(installation: Installation, target: Target, slot: datetime) -> None:
    wake(installation, slot)
    collect_slot(installation, target, slot, {GAUGE: 1.0}, interval=INTERVAL)


def test_slots_that_were_done_in_the_future_are_free_when_they_come(installation: Installation) -> None:
    (target,) = installation.targets(1)
    for place in range(-1, 4):  # the first one gives the target its shard
        collect(installation, target, START + place * INTERVAL)
    for place in range(3):  # by a clock that is an hour ahead
        collect(installation, target, START + HOUR + place * INTERVAL)
    _, last, missed = asked(installation, SLOTS)
    assert (last, missed) == (START + HOUR + 2 * INTERVAL, 240 - 4)
    assert wake(installation, START + 4 * INTERVAL) == 3
    assert asked(installation, SLOTS) == (START, START + 3 * INTERVAL, 0)
    assert wake(installation, START + 5 * INTERVAL) is None
    for place in range(4, 243):  # until the hour has passed, and beyond
        installation.now = START + place * INTERVAL + OFFSET
        slot = START + place * INTERVAL
        assert claim_slot(installation, target, slot, now=installation.now, node="web1").target_ids == (target.id,)
    assert asked(installation, SLOTS) == (START, START + 242 * INTERVAL, 0)
    # 243 slots and the one before there was a shard; what was stored by the wrong clock is not forgotten.
    assert asked(installation, CLAIMED) == (244, 3)


def test_summaries_and_stages_are_not_done_ahead_of_their_time(installation: Installation) -> None:
    def work(connection: object) -> object:
        lease = timedelta(minutes=1)
        values = {"stage": "maintain", "subject": "", "node": "web1", "lease": lease}
        return runs.claim_slot(connection, slot=START + HOUR, now=START + HOUR, **values)  # type: ignore[arg-type] # as above

    wake(installation, START + HOUR)
    assert installation.database.run(work) is not None
    assert installation.database.run(work) is None
    wake(installation, START)
    assert installation.database.run(work) is not None


def maintained(installation: Installation, now: datetime) -> tuple[int, int]:
    """How many partitions a run of this slot drops, and how many it holds because of the clock."""
    done = Maintain(installation.database, "web1").run(clock=lambda: now, slot=now)
    assert done is not None
    held = [reason for _, reason in done.partitions_held]
    return len(done.partitions_dropped), held.count(CLOCK.reason)


def test_a_clock_that_is_ten_years_ahead_drops_nothing(installation: Installation) -> None:
    (target,) = installation.targets(1)
    collect(installation, target, START)
    installation.now = START + HOUR
    installation.roll_up()
    for hours in range(30):
        dropped, held = maintained(installation, START + hours * HOUR)
        assert held == 0 or hours < 25
    dropped, held = maintained(installation, START + 3_653 * DAY)
    assert dropped == 0
    assert held > 10
    # And the right time goes on as before.
    assert maintained(installation, START + 31 * HOUR) == (0, 0)
    # A clock by which the service has run for a day is right, whatever was before.
    assert maintained(installation, START + 3_654 * DAY + HOUR)[0] > 10


def test_a_weekend_off_changes_nothing(installation: Installation) -> None:
    assert maintained(installation, START)[0] == 0
    dropped, held = maintained(installation, START + timedelta(days=3, hours=12))
    assert dropped > 0
    assert held == 0


@pytest.fixture
def contexts(installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Context]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AGGREGATOR_DATABASE_URL", installation.url)

    def make(ahead: timedelta) -> Context:
        from aggregator.config.load import load_settings  # noqa: PLC0415 - after the environment was set

        return Context(load_settings(), clock=lambda: datetime.now(UTC) + ahead)

    return make


@pytest.mark.parametrize(("ahead", "words"), [(2 * HOUR, r"7[12]\d\d s ahead of"), (-2 * HOUR, r"7[12]\d\d s behind")])
def test_a_machine_whose_clock_is_wrong_does_no_work(
    contexts: Callable[[timedelta], Context], ahead: timedelta, words: str
) -> None:
    with pytest.raises(ClockDiffersError, match=words):
        contexts(ahead).due_slot(datetime.now(UTC) + ahead)


def test_a_slot_that_has_yet_to_come_is_refused(contexts: Callable[[timedelta], Context]) -> None:
    here = contexts(timedelta(seconds=20))  # a little wrong is right enough
    soon = datetime.now(UTC) + timedelta(seconds=30)
    assert here.due_slot(soon) == soon
    with pytest.raises(ClockDiffersError, match="has yet to come"):
        here.due_slot(datetime.now(UTC) + HOUR)


def test_a_clock_that_is_set_during_a_collection_stores_nothing(installation: Installation) -> None:
    shown = START
    context = Context(installation.settings, clock=lambda: shown)
    clock = context.steady_clock()
    assert clock() == START
    shown = START + HOUR
    with pytest.raises(ClockDiffersError, match="was set during a collection"):
        clock()


@pytest.mark.usefixtures("contexts")
def test_status_says_that_the_clock_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Ahead(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override] # a zone
            return datetime.now(tz) + HOUR  # type: ignore[arg-type] # as above

    monkeypatch.setattr("aggregator.serving.observer.datetime", Ahead)
    assert run(["status"]) == 1
    assert "this machine's clock is 60 min ahead of PostgreSQL's" in " ".join(capsys.readouterr().out.split())
