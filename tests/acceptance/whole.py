"""An installation that uses all of the product: what it collects, and each command once, on any database."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from aggregator.embedded.ports import free_port
from aggregator.embedded.process import wait_until
from tests.acceptance.machines import BEAT, PATIENCE, Machine, ask, fetched, right_answer, rows, wait_for

CONFIGURATION = """
lateness = "1s"

[[sources]]
name = "often"
kind = "host"
interval = "1s"
keep = ["node_load1", "node_cpu_seconds_total", "node_time_seconds"]
quantiles = ["node_load1"]

[[sources]]
name = "self"
kind = "selftest"
interval = "1s"

[[tiers]]
name = "5s"
step = "5s"
retention = "5y"

[[rules]]
name = "job:load"
select = "node_load1"
by = ["job"]

[[summaries]]
name = "load"
select = "node_load1"
window = "1m"
refresh = "1s"

[[summaries]]
name = "ours"
sql = "SELECT count(*) AS series FROM aggregator.label_values('node_load1', 'instance')"
refresh = "1s"
"""
COLLECTED = """
    SELECT count(*) >= 8 FROM aggregator.collections WHERE NOT by_hand AND finished_at IS NOT NULL AND 1 = ALL (outcome)
"""
#: Samples of all kinds, rollups of two sources, the rule's own series, and both summaries.
USED = """
    SELECT (SELECT count(DISTINCT job) = 2 AND bool_or(metric = 'job:load') FROM aggregator.metrics_5s)
        AND (SELECT count(*) = 2 AND bool_and(computed_at IS NOT NULL AND last_error IS NULL) FROM aggregator.summaries)
"""
#: What was imported is sealed as if it had been written two hours ago.
TIME_PASSES = "UPDATE aggregator.partition_writes SET last_written = last_written - interval '2 hours' RETURNING 1"
SEALED = """
    SELECT (SELECT count(*) FROM aggregator.sealed) > 0 AND (SELECT count(*) FROM aggregator.sample_sealed) > 0
"""
VIEWS = ("samples", "metrics_5s", "metrics_1m", "metrics_5m", "metrics_1h", "metrics_1d")
IMPORTED_HOURS = 5


def contents(url: str, *, before: datetime) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every view that began before an instant, in an order of its own."""
    statement = "SELECT v::text FROM aggregator.{view} AS v WHERE v.time < %s ORDER BY 1"
    return {view: rows(url, statement.format(view=view), before) for view in VIEWS}


def import_old(machine: Machine) -> datetime:
    """Import hours of three days ago, old enough to be sealed; gives the instant of the first sample."""
    start = (datetime.now(UTC) - timedelta(days=3)).replace(hour=0, minute=0, second=0, microsecond=0)
    lines = [
        f'old_total{{instance="i{one}",job="old"}} {minute * (one + 1)} {start.timestamp() + 60 * minute:.0f}'
        for one in range(3)
        for minute in range(60 * IMPORTED_HOURS)
    ]
    (machine.folder / "old.om").write_text("\n".join([*lines, "# EOF", ""]))
    machine.run("aggregator", "import", "old.om", "--source", "old", "--interval", "1m")
    return start


def use_everything(machine: Machine, url: str) -> None:
    """Run beat, worker and web and every command of it; `url` is the database itself, for looking at it."""
    listen = f"127.0.0.1:{free_port()}"
    machine.environment["AGGREGATOR_WEB_LISTEN"] = listen
    machine.run("aggregator", "db", "migrate")
    machine.start_worker()
    machine.start(*BEAT)
    machine.start("aggregator", "web")
    wait_for(url, COLLECTED)
    wait_for(url, USED)
    start = import_old(machine)
    span = ("--from", start.isoformat(), "--to", (start + timedelta(hours=1)).isoformat())
    asked = ("query", "old_total", *span, "--step", "1m", "--format", "json")
    before = json.loads(machine.run("aggregator", *asked).stdout)
    assert rows(url, TIME_PASSES)
    assert wait_until(lambda: has_sealed(machine, url), PATIENCE)
    assert json.loads(machine.run("aggregator", *asked).stdout) == before
    for words in (
        ("collect", "often"),
        ("rollup",),
        ("summarize",),
        ("verify", *span),
        ("plan",),
        ("recompute", "old_total", *span),
        ("explain", 'old_total{instance="i1"}', "--at", (start + timedelta(hours=1)).isoformat(), "--tier", "5m"),
    ):
        machine.run("aggregator", *words)
    machine.run_until(bool, "aggregator", "status")
    for path, said in (
        ("/metrics", "aggregator_database_up 1.0"),
        ("/-/ready", "ready"),
        ("/api/v1/summaries", "load"),
    ):
        right_answer(lambda path=path: fetched(f"http://{listen}{path}"), lambda page, said=said: said in page)


def has_sealed(machine: Machine, url: str) -> bool:
    """Whether rollups and samples are sealed, after one more attempt: it gives up where somebody reads for long."""
    machine.run("aggregator", "maintain")
    return bool(ask(url, SEALED))


def assert_no_task_failed(machine: Machine) -> None:
    """Nothing of what the worker logged is an error."""
    for running in machine.started:
        assert running.errors() == []


def settle(machine: Machine, url: str) -> datetime:
    """Stop everything and roll up what is due; gives an instant before which nothing changes any more."""
    machine.stop()
    until: datetime = ask(url, "SELECT now()")
    machine.run("aggregator", "rollup")
    assert wait_until(lambda: not ask(url, "SELECT count(*) FROM aggregator.dirty WHERE due <= %s", until), PATIENCE)
    return until


#: For each shard its slots from the first to the last, those that are counted as missed, and those that were collected.
_SLOTS = """
    SELECT o.name, round(extract(epoch FROM s.last_slot - s.first_slot) / o.interval_seconds)::int + 1, s.slots_missed,
        count(*) FILTER (WHERE NOT c.by_hand AND c.finished_at IS NOT NULL AND 0 <> ALL (c.outcome))
    FROM aggregator.shard_slots AS s JOIN aggregator.shards AS h ON h.id = s.shard_id
    JOIN aggregator.sources AS o ON o.id = h.source_id
    JOIN aggregator.collections AS c ON c.shard_id = s.shard_id
    GROUP BY s.shard_id, 1, 2, 3
"""
_LEASES_END = "UPDATE aggregator.collections SET lease_until = lease_until - interval '10 minutes' RETURNING 1"


def assert_every_slot_is_accounted_for(machine: Machine, url: str) -> None:
    """Each slot was collected, or is counted as missed, when nobody can still take over what was cut short."""
    rows(url, _LEASES_END)
    machine.run("aggregator", "maintain")
    found = rows(url, _SLOTS)
    assert found
    for source, slots, missed, collected in found:
        assert (source, collected + missed) == (source, slots)
