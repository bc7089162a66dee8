"""Two installations, one Redis, one PostgreSQL server: nothing of one reaches the other."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis

from aggregator.embedded.postgres import EmbeddedPostgres
from tests.acceptance.machines import BEAT, COMMAND_TIMEOUT_SECONDS, Machine, ask, machines, rows, wait_for
from tests.databases import create_database, drop_database

pytestmark = pytest.mark.acceptance

# The same names on purpose: what tells them apart is their namespace and their database.
CONFIGURATION = """
[[sources]]
name = "same"
kind = "command"
command = ["echo", "value: {value}"]
parse = {{ regex = '^value: (?P<value>\\d+)' }}
interval = "1s"

[[summaries]]
name = "same"
select = "value"
window = "1m"
refresh = "1s"
"""
COLLECTED = """
    SELECT count(*) >= 8 FROM aggregator.collections WHERE NOT by_hand AND finished_at IS NOT NULL AND 1 = ALL (outcome)
"""
VALUES = "SELECT DISTINCT value FROM aggregator.samples WHERE metric = 'value'"
DOUBLED = """
    SELECT shard_id, slot FROM aggregator.collections WHERE NOT by_hand GROUP BY shard_id, slot HAVING count(*) > 1
"""
SUMMARIZED = "SELECT bool_and(value IS NOT NULL AND last_error IS NULL) FROM aggregator.summaries"


@pytest.fixture
def pair(
    postgres_server: EmbeddedPostgres, broker_url: str, cache_url: str, tmp_path: Path
) -> Iterator[tuple[Machine, Machine]]:
    made = []
    for name, value in (("first", 1), ("second", 2)):
        urls = {
            "AGGREGATOR_DATABASE_URL": create_database(postgres_server, f"of_{name}"),
            "AGGREGATOR_BROKER_URL": broker_url,
            "AGGREGATOR_CACHE_URL": cache_url,
            "AGGREGATOR_RESULT_BACKEND": cache_url.replace("unix://", "redis+socket://").replace(
                "?db=", "?virtual_host="
            ),
            "AGGREGATOR_NAMESPACE": name,
        }
        machine = Machine(tmp_path / name, "node", urls)
        machine.configure(CONFIGURATION.format(value=value))
        made.append(machine)
    with machines(*made):
        yield made[0], made[1]
    for name in ("first", "second"):
        drop_database(postgres_server, f"of_{name}")


def test_two_installations_on_the_same_servers_do_not_meet(pair: tuple[Machine, Machine], cache_url: str) -> None:
    for machine in pair:
        machine.run("aggregator", "db", "migrate")
        machine.start_worker()
        machine.start(*BEAT)
    first, second = (machine.urls["AGGREGATOR_DATABASE_URL"] for machine in pair)
    for url in (first, second):
        wait_for(url, COLLECTED)
        wait_for(url, SUMMARIZED)
    for machine, value in zip(pair, (1, 2), strict=True):
        # A message by hand is read by the own worker, and its result comes back.
        said = machine.python_session(
            "from aggregator.tasks import collect\nprint(collect.delay('same').get(timeout=120)[0]['output'])"
        )
        assert said.strip() == f"value: {value}"
        assert rows(machine.urls["AGGREGATOR_DATABASE_URL"], VALUES) == [(float(value),)]
        assert f"{value}" in machine.run("aggregator", "summary", "same").stdout

    # A command to all workers reaches those of one namespace only.
    machine = pair[0]
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "aggregator", "control", "shutdown"],
        env=machine.environment, cwd=machine.folder, capture_output=True, text=True, check=False,
        timeout=COMMAND_TIMEOUT_SECONDS,
    )  # fmt: skip
    ended, other = pair[0].started[0].process, pair[1].started[0].process
    assert ended.wait(timeout=COMMAND_TIMEOUT_SECONDS) is not None, done.stdout
    assert other.poll() is None
    before = ask(second, "SELECT count(*) FROM aggregator.collections")
    wait_for(second, "SELECT count(*) > %s FROM aggregator.collections", before + 2)

    with closing(redis.Redis.from_url(cache_url)) as client:
        keys = {key.decode() for key in client.scan_iter()}
    assert {key.split(":")[0] for key in keys} == {"first", "second"}


def test_two_beats_and_a_worker_more_share_the_slots_of_one_installation(pair: tuple[Machine, Machine]) -> None:
    """How a node is added: the URLs, a name of its own, and nothing else."""
    machine, url = pair[0], pair[0].urls["AGGREGATOR_DATABASE_URL"]
    machine.run("aggregator", "db", "migrate")
    machine.start_worker()
    machine.start(*BEAT)
    wait_for(url, COLLECTED)
    added = Machine(machine.folder.parent / "added", "added", machine.urls)
    with machines(added):
        added.start_worker()
        added.start(*BEAT)
        wait_for(
            url, "SELECT count(*) >= 3 FROM aggregator.collections WHERE node = 'added' AND finished_at IS NOT NULL"
        )
    assert rows(url, DOUBLED) == []
