"""Every PromQL query of *Aggregator operations*, on a real Prometheus that scrapes a real installation."""

from __future__ import annotations

import json
import math
import shutil
import signal
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from aggregator import telemetry
from aggregator.embedded.ports import free_port
from aggregator.embedded.postgres import EmbeddedPostgres
from aggregator.embedded.process import end_process, start_process
from aggregator.embedded.valkey import EmbeddedValkey
from tests.acceptance.conftest import missing
from tests.acceptance.machines import BEAT, PATIENCE, Machine, machines, wait_for
from tests.dashboards.files import Query, queries
from tests.dashboards.promql import expanded, metrics
from tests.databases import create_database, drop_database

pytestmark = pytest.mark.acceptance

SCRAPE = timedelta(seconds=2)
#: A panel's interval, long enough for everything that is done now and then to have been done in it.
INTERVAL = timedelta(seconds=30)
QUERIES = queries("operations")
CONFIGURATION = """
[[sources]]
name = "host"
kind = "host"
interval = "1s"

[[sources]]
name = "faulty"
kind = "prometheus"
interval = "1s"
targets = ["http://127.0.0.1:{port}/metrics", "http://127.0.0.1:1/metrics"]

[[tiers]]
name = "5s"
step = "5s"
retention = "1d"

[[summaries]]
name = "load"
select = "node_load1"
stat = "avg"
by = ["instance"]
window = "1m"
refresh = "2s"
"""
SCRAPES = """
global: {{scrape_interval: 2s, scrape_timeout: 2s}}
scrape_configs:
- {{job_name: aggregator, static_configs: [{{targets: ["{exporter}"]}}]}}
- {{job_name: aggregator-installation, static_configs: [{{targets: ["{web}"]}}]}}
"""


class FaultyTarget(BaseHTTPRequestHandler):
    """Exposes one series twice, and one whose samples are older than what has been rolled up."""

    def do_GET(self) -> None:
        """Answer a scrape."""
        late_ms = int((time.time() - 20 + time.time() % 1) * 1_000)
        body = f"here 1\ntwice 1\ntwice 2\nlate 1 {late_ms}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def faulty_target() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), FaultyTarget)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def installation(
    postgres_server: EmbeddedPostgres,
    migrated_template: str,
    valkey_server: EmbeddedValkey,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Machine]:
    """A worker, beat and web, with a host, a target that is faulty and one that is not there."""
    url = create_database(postgres_server, "operations", template=migrated_template)
    urls = {
        "AGGREGATOR_DATABASE_URL": url,
        "AGGREGATOR_BROKER_URL": valkey_server.broker_url,
        "AGGREGATOR_CACHE_URL": valkey_server.cache_url,
        "AGGREGATOR_NAMESPACE": "operations",
        "AGGREGATOR_WEB_LISTEN": f"127.0.0.1:{free_port()}",
    }
    machine = Machine(tmp_path_factory.mktemp("operations") / "home", "here", urls)
    with faulty_target() as port, machines(machine):
        machine.configure(CONFIGURATION.format(port=port))
        machine.run("aggregator", "db", "migrate")
        machine.start("aggregator", "web")
        machine.start_worker()
        machine.start(*BEAT)
        wait_for(url, "SELECT count(*) > 0 FROM aggregator.metrics_5s")
        yield machine
    drop_database(postgres_server, "operations")


@pytest.fixture(scope="module")
def ask(installation: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Any]]:
    """Asks a Prometheus that scrapes the installation, as the one of `deploy/prometheus` does."""
    binary = shutil.which("prometheus")
    if binary is None:
        missing("prometheus")
    home = tmp_path_factory.mktemp("prometheus")
    address = f"127.0.0.1:{free_port()}"
    (home / "prometheus.yml").write_text(
        SCRAPES.format(
            exporter=installation.environment["AGGREGATOR_EXPORTER_LISTEN"],
            web=installation.environment["AGGREGATOR_WEB_LISTEN"],
        )
    )
    with (home / "log").open("wb") as log:
        paths = (f"--config.file={home / 'prometheus.yml'}", f"--storage.tsdb.path={home / 'tsdb'}")
        process = start_process(
            [str(binary), *paths, f"--web.listen-address={address}"],
            output=log,
            environment={"HOME": str(home)},
            parent_death_signal=signal.SIGKILL,
        )
    try:
        yield partial(_answer, address)
    finally:
        end_process(process)


def _answer(address: str, expression: str) -> Any:
    """The result of an instant query; none while Prometheus starts. Fails where it is refused."""
    query = urllib.parse.urlencode({"query": expression})
    try:
        with urllib.request.urlopen(f"http://{address}/api/v1/query?{query}", timeout=10) as response:
            return json.load(response)["data"]["result"]
    except urllib.error.HTTPError as refused:
        if refused.code == HTTPStatus.SERVICE_UNAVAILABLE:
            return []
        pytest.fail(f"{expression}: {refused.read().decode()}")
    except OSError:
        return []


def _until(ask: Callable[[str], Any], expression: str, is_right: Callable[[list[Any]], bool] = bool) -> list[Any]:
    """The series of a query with a number, once they are right: as they begin, some may not be there yet."""
    deadline = time.monotonic() + PATIENCE.total_seconds()
    while True:
        found = [one for one in ask(expression) if math.isfinite(float(one["value"][1]))]
        if is_right(found) or time.monotonic() > deadline:
            return found
        threading.Event().wait(0.2)


def _labels(found: list[Any]) -> set[str]:
    return {label for one in found for label in one["metric"]}


def _values(found: list[Any]) -> set[float]:
    return {float(one["value"][1]) for one in found}


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.owner)
def test_every_query_has_an_answer(ask: Callable[[str], Any], query: Query) -> None:
    expression = expanded(query.text, scrape=SCRAPE, interval=INTERVAL)
    # Of some series a label is empty, which in Prometheus is none: slots of roll-ups are of no source.
    found = _until(ask, expression, lambda found: bool(found) and query.labels <= _labels(found))
    assert found, f"{query.owner}: {expression}"
    assert query.labels <= _labels(found), found


@pytest.mark.parametrize(("panel", "value"), [("Servers", 1.0), ("Scraped by Prometheus", 1.0), ("Targets down", 1.0)])
def test_a_number_is_what_it_must_be(ask: Callable[[str], Any], panel: str, value: float) -> None:
    for query in QUERIES:
        if query.owner == panel:
            expression = expanded(query.text, scrape=SCRAPE, interval=INTERVAL)
            assert _values(_until(ask, expression, lambda found: _values(found) == {value})) == {value}


def test_every_metric_of_the_dashboard_is_one_of_the_service() -> None:
    code = (Path(telemetry.__file__).parent / "serving" / "installation.py").read_text()
    nodes = {f"aggregator_{metric.name}" for metric in telemetry.METRICS}
    for query in QUERIES:
        for name in metrics(query.text) - {"up"}:
            plain = name.removesuffix("_bucket").removesuffix("_total").removeprefix("aggregator_")
            assert {name, name.removesuffix("_bucket")} & nodes or f'"{plain}"' in code or plain.endswith("_up"), name


def test_every_metric_of_a_node_is_on_the_dashboard() -> None:
    shown = {name.removesuffix("_bucket") for query in QUERIES for name in metrics(query.text)}
    assert {f"aggregator_{metric.name}" for metric in telemetry.METRICS} <= shown
