"""An upgrade without a gap: workers of the version before go on, on this one's schema and beside its workers."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest

from aggregator.storage.schema import packaged_head
from tests.acceptance.machines import (
    BEAT,
    COMMAND_TIMEOUT_SECONDS,
    PATIENCE,
    ROOT,
    WORKER,
    Machine,
    Running,
    ask,
    machines,
    wait_for,
)
from tests.acceptance.whole import assert_every_slot_is_accounted_for, settle

pytestmark = pytest.mark.acceptance

CONFIGURATION = """
lateness = "1s"

[[sources]]
name = "self"
kind = "selftest"
interval = "3s"

[[tiers]]
name = "5s"
step = "5s"
retention = "1d"
"""
GOES_ON = """
    SELECT count(*) >= 2 FROM aggregator.collections AS c
    WHERE c.started_at > %s AND c.node = %s AND NOT by_hand AND finished_at IS NOT NULL AND 1 = ALL (outcome)
"""
NOW = "SELECT now()"


def git(*words: str) -> bytes:
    """What git says of this checkout; the test skips where there is none, or not enough of its past."""
    program = shutil.which("git")
    if program is None or not (ROOT / ".git").exists():
        pytest.skip("the version before is in the history of a git checkout, and this is none")
    done = subprocess.run(
        [program, "-C", str(ROOT), *words], capture_output=True, check=False, timeout=COMMAND_TIMEOUT_SECONDS
    )
    if done.returncode != 0:
        pytest.skip(f"git cannot tell the version before: {done.stderr.decode().strip()}")
    return done.stdout


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code as it was before the newest migration came."""
    (newest,) = (ROOT / "migrations" / "versions").glob(f"{packaged_head()}_*.py")
    came = git("log", "-1", "--diff-filter=A", "--format=%H", "--", str(newest.relative_to(ROOT))).decode().strip()
    if not came:
        pytest.skip(f"{newest.name} is not committed yet, or its commit is not in this shallow copy")
    folder = tmp_path_factory.mktemp("before")
    with zipfile.ZipFile(BytesIO(git("archive", "--format=zip", f"{came}^"))) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture
def pair(
    before: Path, empty_database_url: str, broker_url: str, cache_url: str, tmp_path: Path
) -> Iterator[tuple[Machine, Machine]]:
    """A machine with the version before, and one with this version; both have the same configuration."""
    urls = {
        "AGGREGATOR_DATABASE_URL": empty_database_url,
        "AGGREGATOR_BROKER_URL": broker_url,
        "AGGREGATOR_CACHE_URL": cache_url,
    }
    old = Machine(tmp_path / "old", "old", urls, python_path=str(before))
    new = Machine(tmp_path / "new", "new", urls)
    for machine in (old, new):
        machine.configure(CONFIGURATION)
    with machines(old, new):
        assert old.python_session("import aggregator; print(aggregator.__file__)").startswith(str(before))
        yield old, new


def goes_on(url: str, node: str) -> None:
    wait_for(url, GOES_ON, ask(url, NOW), node)


def test_workers_of_the_version_before_go_on_while_machines_are_upgraded_one_by_one(
    pair: tuple[Machine, Machine], empty_database_url: str
) -> None:
    old, new = pair
    url = empty_database_url
    old.run("aggregator", "db", "migrate")
    worker, beat = old.start_worker(), old.start(*BEAT)
    goes_on(url, "old")
    new.run("aggregator", "db", "migrate")
    assert ask(url, "SELECT version_num FROM aggregator.alembic_version") == packaged_head()
    goes_on(url, "old")
    new.start_worker()
    goes_on(url, "new")
    new.start(*BEAT)
    new.run("aggregator", "maintain")
    for process in (beat, worker):
        process.stop()
    goes_on(url, "new")
    for process in (beat, worker):
        assert_says_no_error(process)
    settle(new, url)
    assert_every_slot_is_accounted_for(new, url)
    missed = ask(url, "SELECT coalesce(sum(slots_missed), 0) FROM aggregator.shard_slots")
    # At most what was in flight when the old worker was told to stop.
    assert missed <= 3
    new.run("aggregator", "verify", "--from", "-10m")  # ends with 1 where a number differs


def assert_says_no_error(running: Running) -> None:
    # That its end took long is a matter of the machine; with it comes where each thread was.
    assert [line for line in running.errors() if "end_forced" not in line] == []


def test_a_worker_of_this_version_leaves_an_earlier_schema_to_the_workers_of_its_own(
    pair: tuple[Machine, Machine], empty_database_url: str
) -> None:
    """The wrong order: it is upgraded before the schema is. It says why and ends, and takes no message from others."""
    old, new = pair
    old.run("aggregator", "db", "migrate")
    old.start_worker()
    old.start(*BEAT)
    refused = new.start(*WORKER)
    assert refused.process.wait(timeout=PATIENCE.total_seconds()) == 3
    said = refused.log.read_text()
    assert "schema_outdated" in said
    assert "run `aggregator db migrate`" in said
    goes_on(empty_database_url, "old")
    assert ask(empty_database_url, "SELECT count(*) FROM aggregator.nodes WHERE name = 'new'") == 0
    assert ask(empty_database_url, "SELECT coalesce(sum(slots_missed), 0) FROM aggregator.shard_slots") == 0
