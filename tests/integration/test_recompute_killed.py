"""A recomputation that is killed without a word and typed again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import func, select, text

from aggregator.embedded.process import wait_until
from aggregator.exposition.series import Kind
from aggregator.rollups.buckets import milliseconds
from aggregator.storage import recompute, tables
from tests.installation import Installation, series_key

START = datetime(2026, 3, 1, 4, tzinfo=UTC)
LENGTH = timedelta(hours=9)
SELECTOR = "c_total"
PATIENCE = timedelta(seconds=60)
ROOT = Path(__file__).parents[2]
HOLD = """
CREATE OR REPLACE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_sleep(50); RETURN NEW; END $$
"""
#: What a killed process has left in the server.
LET_GO = """
SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity
WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()
"""
VIEWS = ("metrics_1m", "metrics_5m", "metrics_1h", "metrics_1d")


def fill(installation: Installation) -> None:
    """A counter with resets, a sample a minute, rolled up."""
    (target,) = installation.targets(1)
    key = series_key("c_total", 0, Kind.COUNTER)
    installation.now = START + LENGTH
    minutes = range(LENGTH // timedelta(minutes=1))
    installation.collect(target, {milliseconds(START) + 60_000 * at: {key: float(at % 100)} for at in minutes})
    installation.now = START + timedelta(days=2)
    installation.roll_up()


def start(installation: Installation, home: Path) -> subprocess.Popen[bytes]:
    """`aggregator recompute` as a process, in a group of its own."""
    interval = ("--from", START.isoformat(), "--to", (START + LENGTH).isoformat())
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "AGGREGATOR_DATABASE_URL": installation.url}
    return subprocess.Popen(
        [sys.executable, "-m", "aggregator", "recompute", SELECTOR, *interval],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def marked_down_to(installation: Installation) -> datetime:
    """How far the recomputation has come; its end where it has not begun."""
    requests = installation.database.run(lambda connection: recompute.requests_of(connection, SELECTOR))
    return min((one.marked_down_to for one in requests), default=START + LENGTH)


@contextmanager
def held_below(installation: Installation, bound: datetime) -> Iterator[None]:
    """Whoever has marked below a bound goes no further: it would have ended before it could be killed."""
    execute(installation, HOLD)
    when = f"WHEN (OLD.marked_down_to < '{bound.isoformat()}')"
    execute(
        installation,
        f"CREATE TRIGGER hold BEFORE UPDATE ON aggregator.recomputations FOR EACH ROW {when} EXECUTE FUNCTION hold()",
    )
    try:
        yield
    finally:
        execute(installation, LET_GO)
        execute(installation, "DROP TRIGGER hold ON aggregator.recomputations")


def execute(installation: Installation, statement: str) -> None:
    installation.database.run(lambda connection: connection.execute(text(statement)) and None)


def kill_below(installation: Installation, home: Path, bound: datetime) -> datetime:
    """Start it, kill it as soon as it has marked below a bound, and give how far it came."""
    with held_below(installation, bound):
        process = start(installation, home)
        try:
            assert wait_until(lambda: marked_down_to(installation) < bound or process.poll() is not None, PATIENCE)
            assert process.poll() is None, process.communicate()[0]
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return marked_down_to(installation)


def test_killed_twice_and_typed_again_it_goes_on_and_every_row_is_right(
    installation: Installation, tmp_path: Path
) -> None:
    fill(installation)
    right = {view: installation.rows(view) for view in VIEWS}
    spoil = (
        "UPDATE aggregator.rollup SET increase = (SELECT array_agg(v + 1 ORDER BY n) FROM unnest(increase)"
        " WITH ORDINALITY AS o (v, n))"
    )
    execute(installation, spoil)
    reached = kill_below(installation, tmp_path, START + LENGTH)
    assert START < kill_below(installation, tmp_path, reached) < reached < START + LENGTH
    last = start(installation, tmp_path)
    output, _ = last.communicate(timeout=PATIENCE.total_seconds())
    assert last.returncode == 0, output
    assert b"goes on: buckets from" in output
    whole = sum(LENGTH // timedelta(seconds=step) for step in (60, 300, 3_600)) + 1
    assert f"{whole:,} buckets marked".encode() in output
    assert {view: installation.rows(view) for view in VIEWS} == right
    left = select(func.count()).select_from(tables.dirty)
    assert installation.database.run(lambda connection: connection.execute(left).scalar_one()) == 0
