"""Verdicts on servers as no test can have them: ancient, from the future, at their end, with another clock."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from aggregator.serving.doctor import postgres, rabbitmq_server, redis_server
from aggregator.storage.server_facts import ServerFacts

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
HEALTHY = ServerFacts(
    version=180_006,
    encoding="UTF8",
    is_standby=False,
    clock=NOW,
    role="aggregator",
    database="metrics",
    connections=10,
    most_connections=97,
    role_connections=4,
    role_limit=-1,
    transaction_age=90_000_000,
    may_create=True,
    foreign_tables=0,
    settings={"random_page_cost": "1.1", "jit": "off", "fsync": "on", "autovacuum": "on"},
)


def verdicts(facts: ServerFacts) -> dict[str, str]:
    return {found.about: found.verdict for found in postgres.diagnose(facts, now=NOW) if found.verdict != "ok"}


def test_a_healthy_server_has_nothing_wrong() -> None:
    assert verdicts(HEALTHY) == {}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"version": 130_014}, {"database version": "wrong"}),
        ({"version": 190_000}, {"database version": "warning"}),
        ({"encoding": "LATIN1"}, {"encoding": "wrong"}),
        ({"is_standby": True}, {"database": "wrong"}),
        ({"foreign_tables": 3}, {"rights": "wrong"}),
        ({"may_create": False}, {"rights": "wrong"}),
        ({"connections": 78}, {"connections": "warning"}),
        ({"role_limit": 5}, {"connections": "warning"}),
        ({"role_limit": 0}, {"connections": "warning"}),
        ({"transaction_age": 600_000_000}, {"vacuum": "warning"}),
        ({"transaction_age": 1_600_000_000}, {"vacuum": "wrong"}),
        ({"clock": NOW + timedelta(seconds=3)}, {"clock": "warning"}),
        ({"clock": NOW - timedelta(minutes=1)}, {"clock": "wrong"}),
        ({"settings": {"autovacuum": "off"}}, {"vacuum": "wrong"}),
        ({"settings": {"track_counts": "off"}}, {"vacuum": "wrong"}),
        ({"settings": {"fsync": "off"}}, {"durability": "warning"}),
        ({"settings": {"plan_cache_mode": "force_generic_plan"}}, {"planner": "warning"}),
    ],
)
def test_each_fault_has_its_verdict(change: dict[str, object], found: dict[str, str]) -> None:
    assert verdicts(replace(HEALTHY, **change)) == found  # type: ignore[arg-type] # fields of several types


@pytest.mark.parametrize(
    ("information", "verdict"),
    [
        ({"redis_version": "6.0.16"}, "wrong"),
        ({"redis_version": "6.2.0"}, "ok"),
        ({"redis_version": "10.1.0"}, "ok"),
        ({"redis_version": "7.2.4", "valkey_version": "9.1.2"}, "ok"),
    ],
)
def test_old_versions_of_redis_are_refused(information: dict[str, str], verdict: str) -> None:
    found = {one.about: one.verdict for one in redis_server.diagnose("cache", information, holds_messages=False)}
    assert found["cache version"] == verdict


def test_a_broker_that_cannot_save_is_found() -> None:
    information = {"redis_version": "7.0.0", "rdb_last_bgsave_status": "err", "aof_enabled": 0}
    found = {one.about: one.verdict for one in redis_server.diagnose("broker", information, holds_messages=True)}
    assert found["broker persistence"] == "wrong"


def test_a_broker_without_free_connections_is_found() -> None:
    information = {"redis_version": "7.0.0", "connected_clients": 90, "maxclients": 100}
    found = {one.about: one.verdict for one in redis_server.diagnose("broker", information, holds_messages=True)}
    assert found["broker connections"] == "warning"


@pytest.mark.parametrize(
    ("product", "version", "verdict"),
    [
        ("RabbitMQ", "3.9.13", "wrong"),
        ("RabbitMQ", "3.10.8", "ok"),
        ("RabbitMQ", "4.2.0", "ok"),
        ("Qpid", "9", "warning"),
    ],
)
def test_old_versions_of_rabbitmq_are_refused(product: str, version: str, verdict: str) -> None:
    (found,) = rabbitmq_server.diagnose({"product": product, "version": version})
    assert found.verdict == verdict
