"""A real Prometheus with the shipped rules, beside a real installation: quiet while all is well, then told in time.

The rules wait for minutes. Here they are quickened, in a copy (tests/alerts.py): every `for` is a thirtieth, but three
scrapes at least, and three thresholds are as short as the rhythm of what they look at allows.
AGGREGATOR_TEST_ALERTS=full takes the rules as they are shipped, which takes about a quarter of an hour.
"""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from aggregator.embedded.ports import free_port
from aggregator.embedded.postgres import EmbeddedPostgres
from aggregator.embedded.process import end_process, start_process, wait_until
from aggregator.embedded.valkey import EmbeddedValkey
from tests.acceptance.conftest import Installed
from tests.acceptance.machines import BEAT, PATIENCE, Machine, machines, wait_for
from tests.alerts import OF_PROMETHEUS, RULES, alerts, quickened
from tests.dashboards.promql import metrics
from tests.databases import create_database, drop_database
from tests.integration.serving.test_exporter import assert_clean

pytestmark = pytest.mark.acceptance

IS_FULL = os.environ.get("AGGREGATOR_TEST_ALERTS") == "full"
DIVISOR = 1 if IS_FULL else 30
#: A slow answer in one scrape is none in the next but one.
SHORTEST_SECONDS = 6
#: Beat wakes a source every second here; a worker reports every 15 s.
QUICK = {"AggregatorBeatSilent": (60, 6), "AggregatorNodeGone": (90, 30), "AggregatorNoWorker": (90, 30)}
THRESHOLDS = {} if IS_FULL else QUICK
RHYTHM = {"scrape": "15s", "evaluation": "15s"} if IS_FULL else {"scrape": "2s", "evaluation": "1s"}
LONGEST = timedelta(minutes=15) if IS_FULL else PATIENCE
QUIET = timedelta(minutes=6) if IS_FULL else timedelta(seconds=6)
#: A quickened alert that ends so soon was one of the machine, which did something else for some seconds.
MOMENT_SECONDS = 0 if IS_FULL else 5
#: Those that are told of what is killed here.
KILLED = {"AggregatorBeatSilent", "AggregatorExporterDown", "AggregatorNodeGone", "AggregatorNoWorker"}
CONFIGURATION = """
[[sources]]
name = "host"
kind = "host"
interval = "1s"
keep = ["node_load1"]

[[sources]]
name = "application"
kind = "prometheus"
interval = "1s"
targets = ["http://127.0.0.1:{port}/metrics"]

[[summaries]]
name = "load"
select = "node_load1"
stat = "avg"
by = ["instance"]
window = "1m"
refresh = "2s"
"""
SCRAPES = """
global: {{scrape_interval: {scrape}, scrape_timeout: 2s, evaluation_interval: {evaluation}}}
rule_files: [rules/*.yml]
scrape_configs:
- {{job_name: aggregator, static_configs: [{{targets: ["{exporter}"]}}]}}
- {{job_name: aggregator-installation, static_configs: [{{targets: ["{web}"]}}]}}
"""


class Application(BaseHTTPRequestHandler):
    """A target that is well."""

    def do_GET(self) -> None:
        """Answer a scrape."""
        body = b"answers 42\n"
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@dataclass
class Prometheus:
    """A running Prometheus, as its API tells."""

    address: str

    def get(self, path: str) -> Any:
        """The data of an answer; None while it starts."""
        try:
            with urllib.request.urlopen(f"http://{self.address}/api/v1/{path}", timeout=10) as response:
                return json.load(response)["data"]
        except OSError:
            return None

    def firing(self) -> dict[str, dict[str, Any]]:
        """What fires now, by the alert's name; of several one."""
        found = (self.get("alerts") or {"alerts": []})["alerts"]
        return {one["labels"]["alertname"]: one for one in found if one["state"] == "firing"}

    def scrapes(self) -> bool:
        """Whether every target has been scraped."""
        found = (self.get("targets") or {"activeTargets": []})["activeTargets"]
        return [one["health"] for one in found] == ["up", "up"]

    def evaluates(self) -> bool:
        """Whether every rule has been evaluated, and none failed."""
        groups = (self.get("rules") or {"groups": []})["groups"]
        health = [rule["health"] for group in groups for rule in group["rules"]]
        assert "err" not in health, groups
        return len(health) == len(alerts()) and set(health) == {"ok"}

    def fires(self, name: str, *, since: float) -> dict[str, Any]:
        """Wait for an alert; says how long after the fault it came."""
        found: dict[str, dict[str, Any]] = {}

        def is_told() -> bool:
            nonlocal found
            found = self.firing()
            return name in found

        assert wait_until(is_told, LONGEST), (name, found)
        alert = found[name]
        print(f"{name}: {time.monotonic() - since:.1f} s after the fault: {alert['annotations']}")  # noqa: T201 - what the issue asks for
        assert not re.search(r"error|no value|%!", " ".join(alert["annotations"].values()))
        return alert


@contextmanager
def prometheus(binary: str, home: Path, machine: Machine) -> Iterator[Prometheus]:
    (home / "rules").mkdir()
    for path in RULES:
        names = {alert.name for alert in alerts() if f"alert: {alert.name}\n" in path.read_text()}
        own = {name: change for name, change in THRESHOLDS.items() if name in names}
        (home / "rules" / path.name).write_text(
            quickened(path.read_text(), divisor=DIVISOR, shortest=SHORTEST_SECONDS, thresholds=own)
        )
    addresses = {name: machine.environment[f"AGGREGATOR_{name.upper()}_LISTEN"] for name in ("exporter", "web")}
    (home / "prometheus.yml").write_text(SCRAPES.format(**addresses, **RHYTHM))
    address = f"127.0.0.1:{free_port()}"
    arguments = (f"--config.file={home / 'prometheus.yml'}", f"--storage.tsdb.path={home / 'tsdb'}")
    with (home / "log").open("wb") as log:
        process = start_process(
            [binary, *arguments, f"--web.listen-address={address}"],
            output=log,
            environment={"HOME": str(home)},
            parent_death_signal=signal.SIGKILL,
        )
    try:
        yield Prometheus(address)
    finally:
        end_process(process)


def exposed(machine: Machine, process: str) -> bytes:
    """What a process of the installation shows Prometheus."""
    address = machine.environment[f"AGGREGATOR_{process.upper()}_LISTEN"]
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as response:
        body: bytes = response.read()
        return body


def assert_every_metric_of_the_rules_is_exposed(*texts: bytes) -> None:
    names = set(re.findall(r"^# TYPE (\w+)", b"\n".join(texts).decode(), re.MULTILINE))
    assert {name for alert in alerts() for name in metrics(alert.expression)} <= names | OF_PROMETHEUS


def assert_quiet(asked: Prometheus) -> None:
    """Nothing fires for longer than a moment."""
    began = time.monotonic()
    since: dict[str, float] = {}
    while (now := time.monotonic()) < began + QUIET.total_seconds():
        found = asked.firing()
        since = {name: since.get(name, now) for name in found}
        assert all(now - first < MOMENT_SECONDS for first in since.values()), found
        threading.Event().wait(0.5)


def test_alerts_are_silent_while_all_is_well_and_fire_when_beat_a_worker_or_a_target_dies(
    installed: Installed,
    postgres_server: EmbeddedPostgres,
    migrated_template: str,
    valkey_server: EmbeddedValkey,
    tmp_path: Path,
) -> None:
    binary = installed("prometheus")
    url = create_database(postgres_server, "alerts", template=migrated_template)
    urls = {
        "AGGREGATOR_DATABASE_URL": url,
        "AGGREGATOR_BROKER_URL": valkey_server.broker_url,
        "AGGREGATOR_CACHE_URL": valkey_server.cache_url,
        "AGGREGATOR_NAMESPACE": "alerts",
        "AGGREGATOR_WEB_LISTEN": f"127.0.0.1:{free_port()}",
    }
    machine = Machine(tmp_path / "home", "here", urls)
    application = ThreadingHTTPServer(("127.0.0.1", 0), Application)
    threading.Thread(target=application.serve_forever, daemon=True).start()
    with machines(machine):
        machine.configure(CONFIGURATION.format(port=application.server_port))
        machine.run("aggregator", "db", "migrate")
        web = machine.start("aggregator", "web")
        beat = machine.start(*BEAT)
        worker = machine.start_worker()
        wait_for(url, "SELECT count(*) = 2 FROM aggregator.targets WHERE is_up")
        with prometheus(binary, tmp_path, machine) as asked:
            assert wait_until(asked.evaluates, LONGEST)
            # Prometheus begins to scrape after five seconds; what was absent until then is told at first.
            assert wait_until(lambda: asked.scrapes() and not asked.firing(), LONGEST)
            assert_quiet(asked)
            texts = [exposed(machine, process) for process in ("exporter", "web")]
            for text in texts:
                assert_clean(text)
            assert_every_metric_of_the_rules_is_exposed(*texts)

            target_fault = time.monotonic()
            application.shutdown()
            application.server_close()
            wait_for(url, "SELECT count(*) = 1 FROM aggregator.targets WHERE NOT is_up")
            assert wait_until(lambda: not KILLED & set(asked.firing()), LONGEST), asked.firing()
            fault = time.monotonic()
            beat.kill()
            worker.kill()
            asked.fires("AggregatorBeatSilent", since=fault)
            asked.fires("AggregatorExporterDown", since=fault)
            assert asked.fires("AggregatorNodeGone", since=fault)["labels"]["node"] == "here"
            asked.fires("AggregatorNoWorker", since=fault)
            alert = asked.fires("AggregatorTargetDown", since=target_fault)
            assert alert["labels"]["source"] == "application"

            fault = time.monotonic()
            web.kill()
            asked.fires("AggregatorWebDown", since=fault)
    drop_database(postgres_server, "alerts")
