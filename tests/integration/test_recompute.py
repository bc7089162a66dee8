"""`aggregator recompute`: the past rolled up again from what is kept, and live work before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, insert, select, text

from aggregator.cli.app import EXIT_INTERRUPTED, run
from aggregator.collectors.protocol import Target
from aggregator.config.selector import parse_selector
from aggregator.exposition.series import Kind
from aggregator.rollups.buckets import milliseconds
from aggregator.stages.maintain import Maintain
from aggregator.stages.rollup import Rollup
from aggregator.storage import recompute, tables
from aggregator.storage.health_tiers import TierHealth, backlogs, tiers_of
from aggregator.tasks import recomputation
from aggregator.tasks.recomputation import Done, Progress, Recomputation, find_request
from tests.installation import Installation, series_key

START = datetime(2026, 3, 1, 10, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
LENGTH = 3 * HOUR
SELECTOR = 'c_total{instance="t0"}'

Rows = dict[str, dict[tuple[str, str, datetime], dict[str, object]]]


def fill(installation: Installation, targets: int = 2) -> list[Target]:
    """Three hours of a counter and a gauge of each target, two samples a minute, rolled up long after."""
    made = installation.targets(targets)
    for place, target in enumerate(made):
        keys = (series_key("c_total", place, Kind.COUNTER), series_key("g", place, Kind.GAUGE))
        times = range(0, int(LENGTH.total_seconds()), 30)
        installation.now = START + LENGTH
        samples = {
            milliseconds(START) + 1_000 * second: dict(zip(keys, (float(second), second % 7 + 0.25), strict=True))
            for second in times
        }
        installation.collect(target, samples)
    installation.now = START + 2 * DAY - HOUR
    installation.roll_up()
    return made


def all_rows(installation: Installation) -> Rows:
    return {view: installation.rows(view) for view in ("metrics_1m", "metrics_5m", "metrics_1h", "metrics_1d")}


def spoil(installation: Installation, tiers: str = "1m,5m,1h,1d") -> None:
    """Make sums and increases of some tiers wrong, as a bug of an earlier version might have."""
    statement = text(
        "UPDATE aggregator.rollup SET increase = (SELECT array_agg(v + 1 ORDER BY n) FROM unnest(increase)"
        " WITH ORDINALITY AS o (v, n)), sum = (SELECT array_agg(v * 2 ORDER BY n) FROM unnest(sum) WITH ORDINALITY"
        " AS o (v, n)) WHERE tier_id IN (SELECT id FROM aggregator.tiers WHERE name = ANY (:names))"
    )
    installation.database.run(lambda connection: connection.execute(statement, {"names": tiers.split(",")}))


def ask(installation: Installation, selector: str = SELECTOR, *, until: datetime = START + LENGTH) -> recompute.Request:
    return installation.database.run(
        lambda connection: recompute.begin(connection, selector, since=START, until=until, now=installation.now)
    )


def scope_of(installation: Installation, selector: str = SELECTOR) -> recompute.Scope:
    wanted = parse_selector(selector)
    return installation.database.run(lambda connection: recompute.scope_of(connection, wanted))


def run_all(
    installation: Installation,
    request: recompute.Request,
    report: Callable[[Progress], None] = lambda _: None,
    selector: str = SELECTOR,
) -> Done:
    made = Recomputation(installation.database, installation.rollup, lambda: installation.now)
    return made.run(request, scope_of(installation, selector), report=report)


def marks_left(installation: Installation) -> int:
    statement = select(func.count()).select_from(tables.dirty)
    return installation.database.run(lambda connection: connection.execute(statement).scalar_one())


def test_every_tier_of_the_targets_is_made_anew_and_no_other_target_is_touched(installation: Installation) -> None:
    fill(installation)
    right = all_rows(installation)
    spoil(installation)
    wrong = all_rows(installation)
    done = run_all(installation, ask(installation))
    rows = all_rows(installation)
    for view, of_view in right.items():
        for identity, row in of_view.items():
            if identity[1] == "t0":
                assert rows[view][identity] == row, (view, identity)
            elif view == "metrics_1m":  # a coarser bucket is merged anew from what the other target has
                assert rows[view][identity] == wrong[view][identity], identity
    assert done.request.buckets_marked == 180 + 36 + 3 + 1
    assert done.rows_changed > 0
    assert done.request.kept == {}
    assert marks_left(installation) == 0


def test_a_range_cuts_no_bucket_and_leaves_the_rest(installation: Installation) -> None:
    fill(installation, targets=1)
    right = all_rows(installation)["metrics_1m"]
    spoil(installation, "1m")
    request = replace(ask(installation), since=START + 90 * MINUTE + timedelta(seconds=20))
    statement = tables.recomputations.update().values(since=request.since, until=START + 100 * MINUTE)
    installation.database.run(lambda connection: connection.execute(statement))
    run_all(installation, replace(request, until=START + 100 * MINUTE, marked_down_to=START + 100 * MINUTE))
    found = all_rows(installation)["metrics_1m"]
    again = {time for (metric, _, time), row in found.items() if metric == "g" and row == right[metric, "t0", time]}
    assert again == {START + place * MINUTE for place in range(90, 180)}


def test_what_was_stopped_anywhere_goes_on_where_it_was(installation: Installation) -> None:
    fill(installation)
    right = all_rows(installation)
    spoil(installation)
    asked = ask(installation, "c_total")

    def stop_after(share: float) -> Callable[[Progress], None]:
        def stop(progress: Progress) -> None:
            if progress.fraction > share:
                raise KeyboardInterrupt

        return stop

    for share in (0.0, 0.3, 0.5):
        (request,) = installation.database.run(lambda connection: recompute.requests_of(connection, "c_total"))
        with pytest.raises(KeyboardInterrupt):
            run_all(installation, request, stop_after(share), "c_total")
    (request,) = installation.database.run(lambda connection: recompute.requests_of(connection, "c_total"))
    assert asked.since < request.marked_down_to < asked.until
    marked: list[datetime] = []
    done = run_all(installation, request, lambda progress: marked.append(progress.request.marked_down_to), "c_total")
    assert max(marked) == request.marked_down_to
    assert marked == sorted(marked, reverse=True)
    assert all_rows(installation) == right
    assert done.request.buckets_marked == 180 + 36 + 3 + 1


def test_where_samples_are_gone_coarser_tiers_are_made_from_what_is_kept(installation: Installation) -> None:
    fill(installation)
    Maintain(installation.database, "test").run(clock=lambda: START + 5 * DAY)
    right = all_rows(installation)
    spoil(installation, "5m,1h,1d")
    installation.now = START + 5 * DAY
    done = run_all(installation, ask(installation))
    assert all_rows(installation) == right
    assert done.request.buckets_marked == 36 + 3 + 1
    kept = done.request.kept["1m"]
    assert (kept.count, kept.oldest, kept.newest) == (180, START, START + LENGTH - MINUTE)


def test_where_everything_below_is_gone_it_says_so_and_changes_nothing(installation: Installation) -> None:
    fill(installation)
    Maintain(installation.database, "test").run(clock=lambda: START + 200 * DAY)
    installation.now = START + 200 * DAY
    before = all_rows(installation)
    assert not before["metrics_1m"]
    assert not before["metrics_5m"]
    done = run_all(installation, ask(installation))
    assert all_rows(installation) == before
    assert done.rows_changed == 0
    assert (done.request.buckets_marked, done.request.kept["1h"].count) == (1, 3)


def test_few_marks_wait_at_any_time(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(installation)
    monkeypatch.setattr(recomputation, "MOST_WAITING", 50)
    monkeypatch.setattr(recomputation, "WINDOW_MARKS", 20)
    seen: list[Progress] = []
    run_all(installation, ask(installation), seen.append)
    assert max(progress.waiting for progress in seen) <= 50 + 20 * 2
    assert len({progress.request.marked_down_to for progress in seen}) > 5


def test_ten_thousand_marks_of_backfill_do_not_delay_a_live_one_and_are_no_live_lag(
    installation: Installation,
) -> None:
    (target, *_) = fill(installation)
    (shard_id,) = scope_of(installation).shard_ids
    finest = installation.database.run(tiers_of)[0]
    marks = [
        {
            "tier_id": finest.id,
            "shard_id": shard_id,
            "bucket": START - place * MINUTE,
            "due": START,
            "marked": START,
            "backfill": True,
        }
        for place in range(10_000)
    ]
    installation.database.run(lambda connection: connection.execute(insert(tables.dirty), marks))
    live = START + 2 * DAY
    installation.now = live + timedelta(seconds=1)
    installation.collect(target, {milliseconds(live): {series_key("g", 0, Kind.GAUGE): 1.0}})
    installation.now = live + MINUTE + timedelta(seconds=6)
    Rollup(installation.database, "test")._roll_up(shard_id, clock=lambda: installation.now)
    assert ("g", "t0", live) in installation.rows("metrics_1m")
    waiting = installation.database.run(backlogs)[finest.id]
    health = TierHealth.of(finest, waiting, newest_bucket=None, now=installation.now)
    assert (health.lag_seconds, health.live_rows) == (0, 0)
    assert health.backfill_rows == 10_000
    assert health.backfill_lag_seconds > DAY.total_seconds()


@pytest.fixture
def typed(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run `recompute` in this process; gives exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AGGREGATOR_DATABASE_URL", installation.url)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(["recompute", *arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def test_the_same_command_goes_on_says_when_it_is_done_and_starts_over_when_told(
    installation: Installation, typed: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(installation, targets=1)
    interval = ("--from", START.isoformat(), "--to", (START + LENGTH).isoformat())
    finish = Recomputation._finish

    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Recomputation, "_finish", interrupt)
    code, _, err = typed("c_total", *interval)
    assert code == EXIT_INTERRUPTED
    assert "the same command goes on where this one stopped" in err
    monkeypatch.setattr(Recomputation, "_finish", finish)
    code, out, _ = typed("c_total", *interval)
    assert code == 0
    assert "goes on: buckets from 2026-03-01T10:00:00Z on are marked already" in out
    assert "220 buckets marked, 0 rollup rows changed" in out
    assert "done already" in typed("c_total", *interval)[1]
    code, out, err = typed("c_total", *interval, "--again")
    assert code == 0
    assert "220 buckets marked" in out
    assert "100%: marked down to 2026-03-01T10:00:00Z" in err


def test_what_cannot_be_meant_is_refused(typed: Callable[..., tuple[int, str, str]]) -> None:
    assert typed("c_total", "--from", "-1h", "--to", "-2h")[0] == 2
    assert typed("c_total{", "--from", "-1h")[0] == 2
    code, _, err = typed("c_total", "--from", "-1h")
    assert code == 1
    assert "nothing to recompute: there is no series yet" in err


def test_relative_times_mean_what_they_meant_when_they_were_first_typed() -> None:
    first, later = START, START + HOUR
    made = recompute.Request(1, "g", first - DAY, first, first - HOUR, first, None)

    def asked(now: datetime) -> tuple[datetime, datetime]:
        return now - DAY, now

    assert find_request([made], asked, now=later) == made
    assert find_request([replace(made, finished_at=later)], asked, now=later) is None
    assert find_request([replace(made, finished_at=later)], lambda _: (first - DAY, first), now=later) is not None
