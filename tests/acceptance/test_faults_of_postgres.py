"""PostgreSQL is restarted, killed, locked and short of space while sources run: nothing is lost, nothing is twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg2
import pytest

from tests.acceptance.faults import postgres
from tests.acceptance.faults.fault import IS_LONG, LONG_VARIABLE, endure, endure_all
from tests.acceptance.faults.scene import Cast, Scene, scene
from tests.acceptance.faults.servers import Redis
from tests.acceptance.ledger_check import Outage
from tests.acceptance.machines import PATIENCE, ask, children, rows
from tests.small_disk import small_disk

pytestmark = pytest.mark.acceptance

_DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"

_SESSIONS = """
    SELECT application_name, count(*)::int FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend' GROUP BY 1
"""

QUICK = (postgres.SERVER_KILLED, postgres.BACKEND_KILLED, postgres.TARGETS_LOCKED)


@pytest.fixture
def here(open_directory: Path, tmp_path: Path) -> Iterator[Scene]:
    with scene(tmp_path / "machines", open_directory / tmp_path.name, cast=Cast(web=True)) as made:
        yield made


def assert_each_process_has_one_connection(here: Scene) -> None:
    """A child of a worker has one, `web` two at the most; a worker's parent and beat have none."""
    (worker,) = here.workers
    assert worker.running is not None
    most: Counter[str] = Counter()
    with closing(psycopg2.connect(here.database_url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True

        def sessions() -> Counter[str]:
            cursor.execute(_SESSIONS)
            return Counter(dict(cursor.fetchall()))

        # Of the test's own earlier looks the last one may still be there.
        assert here.wait(lambda: "" not in sessions(), PATIENCE)
        for _ in range(20):
            most |= sessions()
            here.live(timedelta(seconds=0.1))
    assert 1 <= most.pop("aggregator a") <= len(children(worker.running.process))
    assert most.pop("aggregator web", 0) <= 2
    assert not most


def test_a_server_that_goes_away_or_does_not_give_its_locks_loses_nothing(here: Scene) -> None:
    faults = postgres.FAULTS if IS_LONG else QUICK
    assert len(endure_all(here, faults)) == len(faults)
    assert_each_process_has_one_connection(here)
    here.check().assert_right()
    assert ask(here.database_url, _DEADLOCKS) == 0


def test_a_disk_that_is_full_is_said_to_be_so_and_all_goes_on_when_there_is_space(
    open_directory: Path, tmp_path: Path
) -> None:
    broker = Redis(open_directory / "redis-beside")
    with (
        small_disk(open_directory / "data") as place,
        scene(tmp_path / "machines", place, broker=broker, cast=Cast()) as here,
    ):
        endure(here, postgres.disk_full(place, lasts=timedelta(seconds=8 if IS_LONG else 2)))
        here.check().assert_right()


@pytest.mark.skipif(not IS_LONG, reason=f"long: {LONG_VARIABLE}=1; the quick ones are in test_restore.py")
@pytest.mark.parametrize("restore", [postgres.restore_in_place, postgres.restore_anew])
def test_an_older_dump_takes_the_place_of_what_is_there_under_running_workers(
    here: Scene, tmp_path: Path, restore: Callable[[str, Path], None]
) -> None:
    path = tmp_path / "dump.sql"
    dumped = datetime.now(UTC)
    postgres.dump(here.database_url, path)
    # Targets and series that the dump does not know, whose ids others will have.
    machine = here.machines[0]
    machine.run("aggregator", "import", str(_import_file(tmp_path, "later")))
    here.live(timedelta(seconds=3))
    endured = endure(
        here, postgres.restored(path, restore, restore.__name__.removeprefix("restore_").replace("_", " "))
    )
    # What was collected after the dump is gone with what it was restored over.
    here.outages.append(Outage(dumped, endured.ended))
    machine.run("aggregator", "import", str(_import_file(tmp_path, "other")))
    here.check().assert_right()
    assert rows(here.database_url, "SELECT DISTINCT metric FROM aggregator.series WHERE metric ~ '^imported'") == [
        ("imported_other",)
    ]


def _import_file(folder: Path, name: str) -> Path:
    path = folder / f"{name}.om"
    path.write_text(
        f"# TYPE imported_{name} gauge\n"
        + "".join(f'imported_{name}{{job="old",instance="x"}} {place} {1_790_000_000 + place}\n' for place in range(9))
        + "# EOF\n"
    )
    return path
