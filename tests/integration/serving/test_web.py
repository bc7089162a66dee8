"""The web process over real HTTP: what it serves, and what remains of it while a server is away."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from aggregator import client
from aggregator.client import summary_key
from aggregator.embedded.process import wait_until
from aggregator.errors import EnvironmentRefusedError
from aggregator.serving import observer
from aggregator.serving.observer import DATABASE_DOWN_AFTER_SECONDS, KEPT_SECONDS, Addresses, Observer
from aggregator.serving.web import open_web
from aggregator.storage.migrate import head_revision
from aggregator.storage.schema import packaged_head
from tests.integration.serving.test_exporter import assert_clean

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from email.message import Message

    from aggregator.embedded.valkey import EmbeddedValkey
    from tests.integration.serving.conftest import Past

STATUS_FIELDS = {
    "as_of", "version", "ok", "problems", "servers", "sources", "targets", "tiers", "summaries", "nodes", "glance",
    "partitions_held", "stored", "stored_of_sources", "quarantined",
}  # fmt: skip
FIELDS = {
    "sources": {
        "name", "kind", "interval_seconds", "targets", "up", "down", "series", "last_success", "slots_missed",
        "last_error", "last_error_at", "stale",
    },
    "targets": {"source", "job", "instance", "up", "since", "last_error", "last_error_at"},
    "tiers": {
        "name", "step_seconds", "newest_bucket", "lag_seconds", "backfill_lag_seconds", "backlog", "verify_mismatches",
        "stale",
    },
    "summaries": {"name", "refresh_seconds", "computed_at", "version", "last_error", "last_error_at", "stale"},
    "nodes": {"name", "last_seen", "config_hash", "version", "alive"},
    "glance": {
        "instance", "cpu_busy_ratio", "load1", "memory_used_ratio", "disk_fullest_ratio", "disk_mountpoint",
    },
    "stored": {"tier", "form", "bytes", "empty_bytes", "items", "bytes_each", "is_estimate"},
    "stored_of_sources": {"source", "series", "bytes", "bytes_each"},
}  # fmt: skip

#: A second on an idle machine; what hangs does so for longer than this.
SOON_SECONDS = 30
#: Nothing that is promised to be quicker takes so long, however busy the machine is.
MOST_SECONDS = 60


#: Nobody listens there.
CLOSED_PORT = 1


@dataclass
class Site:
    """A running web server."""

    port: int

    def get(self, path: str, method: str = "GET", **headers: str) -> tuple[int, Message, bytes]:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=names, method=method)
        try:
            with urllib.request.urlopen(request, timeout=MOST_SECONDS) as response:  # noqa: S310 - loopback
                return response.status, response.headers, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read()

    def json(self, path: str) -> Any:
        return json.loads(self.get(path)[2])

    def metrics(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        families = text_string_to_metric_families(self.get("/metrics")[2].decode())
        return {
            (sample.name.removeprefix("aggregator_"), tuple(sorted(sample.labels.items()))): sample.value
            for family in families
            for sample in family.samples
        }


@contextmanager
def serving(addresses: Addresses) -> Iterator[Site]:
    asked = Observer(addresses, application="test web")
    server = open_web("127.0.0.1:0", asked)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield Site(server.effective_port)
    finally:
        with suppress(OSError):  # it may have closed while it was being told
            server.trigger.pull_trigger(server.close)  # in the server's own loop, which ends with its last socket
        thread.join(MOST_SECONDS)
        asked.close()


@pytest.fixture(scope="module")
def site(shared: Past, valkey_server: EmbeddedValkey) -> Iterator[Site]:
    """A site over what nobody changes."""
    with serving(Addresses(shared.url, valkey_server.broker_url, valkey_server.cache_url)) as started:
        yield started


@pytest.fixture
def own_site(installation: Past, cache_url: str) -> Iterator[Site]:
    """A site over a database of the test's own."""
    with serving(Addresses(installation.url, None, cache_url)) as started:
        yield started


@pytest.fixture
def site_without_database(cache_url: str) -> Iterator[Site]:
    with serving(Addresses(f"postgresql://u:secret@127.0.0.1:{CLOSED_PORT}/d", None, cache_url)) as started:
        yield started


def test_the_status_has_every_field_that_is_promised(site: Site) -> None:
    status = site.json("/api/v1/status")
    assert set(status) == STATUS_FIELDS
    for name, fields in FIELDS.items():
        assert status[name], name
        assert all(set(entry) == fields for entry in status[name]), name
    assert status["servers"] == {"database": {"up": True}, "broker": {"up": True}, "cache": {"up": True}}
    assert (status["ok"], status["problems"]) == (True, [])


def test_the_metrics_of_the_installation_are_all_there_and_clean(site: Site) -> None:
    site.get("/metrics")  # nodes, and so their queues, are known from then on
    assert_clean(site.get("/metrics")[2])
    found = site.metrics()
    assert found["database_up", ()] == found["broker_up", ()] == found["cache_up", ()] == 1
    assert found["targets", (("source", "scripted"), ("state", "up"))] == 2
    assert found["series", (("source", "scripted"),)] == 6
    assert found["slots_missed_total", (("source", ""), ("stage", "rollup"))] == 4
    assert found["queue_messages", (("queue", "aggregator.rollup"),)] == 0
    names = {name for name, _ in found}
    assert names >= {
        "source_last_success_timestamp_seconds", "tier_newest_bucket_timestamp_seconds", "oldest_due_age_seconds",
        "dirty_rows", "beat_last_wake_timestamp_seconds", "worker_last_seen_timestamp_seconds",
        "partitions_ahead_seconds", "summary_computed_timestamp_seconds", "table_bytes",
        "verify_mismatches_total",
    }  # fmt: skip


def test_waiting_messages_are_counted_in_redis(shared: Past, broker_url: str) -> None:
    with client.connect(broker_url, timeout_seconds=1) as broker:
        broker.lpush("aggregator.collect", "a", "b")
        broker.lpush("aggregator.collect\x06\x169", "c")
    with serving(Addresses(shared.url, broker_url)) as site:
        assert site.metrics()["queue_messages", (("queue", "aggregator.collect"),)] == 3


def test_the_page_shows_targets_tiers_and_summaries(site: Site) -> None:
    status, headers, body = site.get("/")
    page = body.decode()
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    for expected in ("All is well.", "scripted", "t0", "1m", "Summary slowest-sources", "machine", "20%", "60% /"):
        assert expected in page
    assert "script" not in page.replace("scripted", "")


def test_every_answer_has_headers_that_keep_a_browser_safe(site: Site) -> None:
    for path in ("/", "/metrics", "/-/healthy", "/api/v1/status", "/nowhere"):
        _, headers, _ = site.get(path)
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert headers["Cache-Control"] == "no-store"
        assert "Server" not in headers


def test_head_sends_no_body_and_other_methods_are_refused(site: Site) -> None:
    status, headers, body = site.get("/api/v1/status", method="HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) > 0
    status, headers, _ = site.get("/api/v1/status", method="DELETE")
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


def test_an_unknown_path_is_a_json_error(site: Site) -> None:
    status, headers, body = site.get("/api/v2/x?<script>")
    assert (status, headers["Content-Type"]) == (404, "application/json")
    assert "error" in json.loads(body)


def test_large_answers_are_compressed_where_that_is_accepted(site: Site) -> None:
    _, headers, _ = site.get("/api/v1/status", Accept_Encoding="gzip")
    assert headers["Content-Encoding"] == "gzip"
    _, headers, _ = site.get("/-/healthy", Accept_Encoding="gzip")
    assert "Content-Encoding" not in headers


def test_healthy_and_ready_are_told_apart(own_site: Site, installation: Past) -> None:
    assert own_site.get("/-/healthy")[0] == 200
    assert own_site.get("/-/ready")[0] == 200
    old = text("UPDATE aggregator.alembic_version SET version_num = '20260101_0001'")
    installation.database.run(lambda connection: connection.execute(old) and None)
    status, _, body = own_site.get("/-/ready")
    assert status == 503
    assert b"aggregator db migrate" in body


def test_a_database_without_a_schema_is_not_ready(empty_database_url: str) -> None:
    with serving(Addresses(empty_database_url)) as site:
        assert site.get("/-/ready")[0] == 503
        assert site.metrics() == {("database_up", ()): 1}
        assert "aggregator db migrate" in site.json("/api/v1/status")["problems"][0]


def test_without_a_database_the_rest_is_served_without_hanging(site_without_database: Site) -> None:
    site = site_without_database
    started = time.monotonic()
    found = site.metrics()
    assert time.monotonic() - started < SOON_SECONDS
    assert found == {("database_up", ()): 0, ("cache_up", ()): 1}
    assert_clean(site.get("/metrics")[2])
    status = site.json("/api/v1/status")
    assert status["ok"] is False
    assert "AGGREGATOR_DATABASE_URL" in status["problems"][0]
    assert "secret" not in json.dumps(status)
    assert site.get("/")[0] == 200
    assert site.get("/-/healthy")[0] == 200
    assert site.get("/-/ready")[0] == 503
    assert site.get("/api/v1/summaries/x")[0] == 503


def test_a_database_that_accepts_and_says_nothing_is_down_without_hanging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observer, "DATABASE_DOWN_AFTER_SECONDS", DATABASE_DOWN_AFTER_SECONDS)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with serving(Addresses(f"postgresql://u@127.0.0.1:{port}/d")) as site:
            started = time.monotonic()
            assert site.metrics() == {("database_up", ()): 0}
            assert site.get("/-/healthy")[0] == 200
            assert time.monotonic() - started < SOON_SECONDS


def test_it_recovers_when_the_database_has_closed_its_connections(own_site: Site, installation: Past) -> None:
    assert own_site.metrics()["database_up", ()] == 1
    ended = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'test web'")
    installation.database.run(lambda connection: connection.execute(ended) and None)
    time.sleep(1.1 * KEPT_SECONDS)  # so long answers are kept
    assert wait_until(lambda: own_site.metrics()["database_up", ()] == 1, timedelta(seconds=SOON_SECONDS))


def test_a_broker_and_a_cache_that_are_away_are_told_without_their_passwords(installation: Past) -> None:
    away = f"redis://:hidden@127.0.0.1:{CLOSED_PORT}/0"
    with serving(Addresses(installation.url, away, away)) as site:
        found = site.metrics()
        assert (found["broker_up", ()], found["cache_up", ()]) == (0, 0)
        status = site.json("/api/v1/status")
        assert len(status["problems"]) == 2
        assert "AGGREGATOR_BROKER_URL" in status["problems"][0]
        assert "hidden" not in json.dumps(status)


def test_a_summary_comes_from_the_cache_and_else_from_postgresql(own_site: Site, cache_url: str, now: datetime) -> None:
    stored = own_site.json("/api/v1/summaries/slowest-sources")
    assert (stored["version"], stored["value"], stored["stale"]) == (3, [{"instance": "t0", "value": 1.5}], False)
    document = {**stored, "version": 4, "computed_at": now.isoformat(), "as_of": now.isoformat()}
    with redis.Redis.from_url(cache_url) as cache:
        cache.set(summary_key("aggregator", "slowest-sources"), json.dumps(document))
    assert own_site.json("/api/v1/summaries/slowest-sources")["version"] == 4
    status, headers, _ = own_site.get("/api/v1/summaries/none")
    assert (status, headers["Content-Type"]) == (404, "application/json")


def test_a_fault_of_ours_is_an_error_without_details(own_site: Site, installation: Past) -> None:
    broken = text("UPDATE aggregator.summaries SET as_of = NULL")
    installation.database.run(lambda connection: connection.execute(broken) and None)
    status, _, body = own_site.get("/api/v1/summaries/slowest-sources")
    assert status == 500
    assert b"Traceback" not in body


def test_a_taken_port_is_refused_with_the_setting(site: Site, shared: Past) -> None:
    second = Observer(Addresses(shared.url), application="test")
    with pytest.raises(EnvironmentRefusedError, match="AGGREGATOR_WEB_LISTEN"):
        open_web(f"127.0.0.1:{site.port}", second)
    second.close()


def test_the_head_that_readiness_asks_for_is_alembics() -> None:
    assert packaged_head() == head_revision()
