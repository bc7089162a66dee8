"""Everything over TLS and with passwords: PostgreSQL, Redis and RabbitMQ, and nothing where the authority is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from aggregator.storage.bootstrap import bring_up
from tests.acceptance.canary import MARK, SECRET, files_of, leaks
from tests.acceptance.conftest import Installed, missing
from tests.acceptance.machines import BEAT, WORKER, Machine, machines, right_answer, wait_for
from tests.acceptance.rabbitmq import rabbitmq_binary
from tests.acceptance.secure_servers import (
    SecureRabbitMQ,
    Site,
    make_database,
    postgres_with_tls,
    secure_postgres,
    secure_redis,
)
from tests.installation import settings_for
from tests.tls_server import Certificates

pytestmark = pytest.mark.acceptance

#: Canaries: no file that anything here leaves behind may hold them.
PASSWORD = f"{MARK} w/rd of:the@test"
BROKER_PASSWORD = SECRET["rabbitmq"]
CONFIGURATION = """
[[sources]]
name = "self"
kind = "selftest"
interval = "1s"

[[summaries]]
name = "shop"
sql = "SELECT 7 AS seven"
database = "shop"
refresh = "1s"
"""
COLLECTED = "SELECT count(*) >= 3 FROM aggregator.collections WHERE finished_at IS NOT NULL AND NOT by_hand"
REFUSED = ("certificate verify failed", "CERTIFICATE_VERIFY_FAILED")


@dataclass(frozen=True)
class Servers:
    """The URLs of servers that speak TLS only, without what says how they are checked."""

    site: Site
    database: str
    redis: str
    rabbitmq: str

    def urls(self, broker: str, /, **others: Certificates) -> dict[str, str]:
        """The variables of a node; `database`, `broker` and `cache` name authorities that it trusts instead of ours."""
        trusted = {name: others.get(name, self.site.ours).ca for name in ("database", "broker", "cache")}
        brokers = {"redis": f"{self.redis}/0", "rabbitmq": self.rabbitmq}
        return {
            "AGGREGATOR_DATABASE_URL": self.database_url(trusted["database"]),
            "AGGREGATOR_DATABASES_SHOP_URL": self.database_url(trusted["database"]),
            "AGGREGATOR_BROKER_URL": f"{brokers[broker]}?ssl_ca_certs={trusted['broker']}",
            "AGGREGATOR_CACHE_URL": f"{self.redis}/1?ssl_ca_certs={trusted['cache']}",
            "AGGREGATOR_RESULT_BACKEND": f"{self.redis}/2?ssl_ca_certs={trusted['broker']}",
            "AGGREGATOR_NAMESPACE": f"tls-{broker}",
        }

    def database_url(self, authority: str) -> str:
        return f"{self.database}?sslmode=verify-full&sslrootcert={authority}"


@pytest.fixture(scope="module")
def servers(open_directory: Path) -> Iterator[Servers]:
    folder = open_directory / "tls"
    site = Site.below(folder)
    binary, binaries = rabbitmq_binary(), postgres_with_tls()
    if binary is None or binaries is None:
        missing("rabbitmq-server or postgresql")
        return
    with (
        secure_postgres(folder / "pg", site, password=PASSWORD, binaries=binaries) as database,
        secure_redis(folder / "redis", site, password=PASSWORD, binary=Installed()("redis-server")) as redis,
        SecureRabbitMQ(folder / "rabbitmq", site, password=BROKER_PASSWORD, binary=binary) as rabbitmq,
    ):
        made = Servers(site, database, redis, rabbitmq.url)
        bring_up(made.database_url(site.ours.ca), settings_for(folder), now=datetime.now(UTC))
        yield made


@pytest.fixture(autouse=True)
def no_password_is_left_behind(tmp_path: Path) -> Iterator[None]:
    """Logs, metric files, what beat keeps: of everything that a test's machine wrote."""
    yield
    texts = dict(files_of(tmp_path))
    assert texts
    assert {name: found for name, text in texts.items() if (found := leaks(text))} == {}


def machine_of(folder: Path, urls: dict[str, str]) -> Machine:
    made = Machine(folder / "home", "here", urls)
    made.configure(CONFIGURATION)
    return made


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_everything_goes_over_tls(servers: Servers, broker: str, tmp_path: Path) -> None:
    own = replace(servers, database=make_database(servers.database, f"over_{broker}"))
    machine = machine_of(tmp_path, own.urls(broker))
    url = own.database_url(servers.site.ours.ca)
    with machines(machine):
        machine.run("aggregator", "db", "migrate")
        machine.start_worker()
        machine.start(*BEAT)
        wait_for(url, "SELECT count(*) > 0 FROM aggregator.summaries WHERE computed_at IS NOT NULL")
        wait_for(url, COLLECTED)
        assert "seven" in machine.run("aggregator", "summary", "shop").stdout  # from the cache
        right_answer(
            lambda: machine.run("aggregator", "status", exit_code=None),
            lambda done: done.returncode in (0, 1) and "cannot be reached" not in done.stdout,
        )
        collected = machine.python_session(
            'from aggregator.tasks import collect\nprint(collect.delay("self").get(timeout=120)[0]["up"])'
        )
        assert collected == "True\n"


def test_a_database_of_another_authority_is_refused(servers: Servers, tmp_path: Path) -> None:
    machine = machine_of(tmp_path, servers.urls("redis", database=servers.site.strangers))
    refused = machine.run("aggregator", "db", "migrate", exit_code=3)
    assert "certificate verify failed" in refused.stderr
    assert "AGGREGATOR_DATABASE_URL" in refused.stderr


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_a_broker_of_another_authority_is_refused(servers: Servers, broker: str, tmp_path: Path) -> None:
    machine = machine_of(tmp_path, servers.urls(broker, broker=servers.site.strangers))
    with machines(machine):
        for running in (machine.start(*WORKER), machine.start(*BEAT)):
            running.says(*REFUSED)
        machine.run_until(lambda said: "the broker cannot be reached" in said, "aggregator", "status", exit_code=1)


def test_a_broker_that_refuses_the_password_is_not_told_of_with_it(servers: Servers, tmp_path: Path) -> None:
    urls = servers.urls("rabbitmq")
    urls["AGGREGATOR_BROKER_URL"] = urls["AGGREGATOR_BROKER_URL"].replace(BROKER_PASSWORD, f"{BROKER_PASSWORD}-wrong")
    machine = machine_of(tmp_path, urls)
    with machines(machine):
        for running in (machine.start(*WORKER), machine.start(*BEAT)):
            running.says("ACCESS_REFUSED")
        done = right_answer(
            lambda: machine.run("aggregator", "doctor", exit_code=None), lambda done: "ACCESS_REFUSED" in done.stdout
        )
    assert leaks(done.stdout + done.stderr) == []


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_a_broker_of_another_name_is_refused(servers: Servers, broker: str, tmp_path: Path) -> None:
    urls = servers.urls(broker)
    urls["AGGREGATOR_BROKER_URL"] = urls["AGGREGATOR_BROKER_URL"].replace("@localhost", "@127.0.0.1")
    machine = machine_of(tmp_path, urls)
    with machines(machine):
        machine.start(*WORKER).says(*REFUSED)


def test_without_an_authority_the_systems_are_asked_and_not_nobody(servers: Servers, tmp_path: Path) -> None:
    urls = servers.urls("redis")
    urls["AGGREGATOR_BROKER_URL"] = urls["AGGREGATOR_BROKER_URL"].partition("?")[0]
    machine = machine_of(tmp_path, urls)
    with machines(machine):
        machine.start(*WORKER).says(*REFUSED)


def test_a_cache_of_another_authority_is_refused(servers: Servers, tmp_path: Path) -> None:
    machine = machine_of(tmp_path, servers.urls("redis", cache=servers.site.strangers))
    machine.run_until(lambda said: "the cache cannot be reached" in said, "aggregator", "status", exit_code=1)
