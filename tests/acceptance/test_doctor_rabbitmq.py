"""The doctor on a RabbitMQ: its version, and what it says while it is away."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.acceptance.machines import Machine, right_answer
from tests.acceptance.rabbitmq import RabbitMQ

pytestmark = pytest.mark.acceptance


def test_the_version_is_read_and_a_wrong_password_is_said(
    rabbitmq: RabbitMQ, database_url: str, tmp_path: Path
) -> None:
    urls = {"right": rabbitmq.url, "wrong": rabbitmq.url.replace("guest:guest@", "guest:canary-password@")}
    machines = {name: Machine(tmp_path / name, "here", _urls(database_url, url)) for name, url in urls.items()}
    right_answer(
        lambda: _broker(machines["right"]), lambda said: said.get("broker version", "").startswith("RabbitMQ ")
    )
    said = right_answer(lambda: _broker(machines["wrong"]), lambda said: "ACCESS_REFUSED" in said["broker"])
    assert "canary" not in json.dumps(said)


def _urls(database: str, broker: str) -> dict[str, str]:
    return {"AGGREGATOR_DATABASE_URL": database, "AGGREGATOR_BROKER_URL": broker}


def _broker(machine: Machine) -> dict[str, str]:
    """What is said of the broker, by what it is about."""
    findings = json.loads(machine.run("aggregator", "doctor", "--json", exit_code=None).stdout)
    return {found["about"]: found["says"] for found in findings if found["about"].startswith("broker")}
