"""The prometheus collector against a real node_exporter and a real Prometheus: what it reads is what they send."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from aggregator.collectors.host.mounts import EXCLUDED_MOUNT_POINTS
from aggregator.collectors.prometheus import PrometheusCollector
from aggregator.collectors.protocol import Collected, Target
from aggregator.config.source_model import PrometheusSource
from aggregator.embedded.ports import free_port
from aggregator.exposition.series import Kind
from tests.small_disk import MOUNT_POINTS

MOST_SECONDS = 60.0
POLL_SECONDS = 0.05
OWN = (("instance", "here"), ("job", "test"))


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=MOST_SECONDS) as response:  # noqa: S310 - loopback only
        return str(response.read().decode())


def get_when_ready(url: str, expected: str) -> str:
    deadline = time.monotonic() + MOST_SECONDS
    while True:
        try:
            if expected in (body := get(url)):
                return body
        except OSError:
            pass
        assert time.monotonic() < deadline, f"{url} never held {expected}"
        time.sleep(POLL_SECONDS)


@contextmanager
def running(name: str, *arguments: str, cwd: Path) -> Iterator[None]:
    """A server of the system, stopped at the end; without it the test is skipped, or fails where it must not."""
    binary = shutil.which(name)
    if binary is None:
        if os.environ.get("AGGREGATOR_TEST_REQUIRE_SERVERS") == "1":
            pytest.fail(f"{name} is not installed")
        pytest.skip(f"{name} is not installed")
    quiet = subprocess.DEVNULL
    with subprocess.Popen([binary, *arguments], stdout=quiet, stderr=quiet, cwd=cwd) as process:
        try:
            yield
        finally:
            process.terminate()


@pytest.fixture
def node_exporter(tmp_path: Path) -> Iterator[str]:
    place = f"127.0.0.1:{free_port()}"
    # Disks of other tests come and go between two readings.
    excluded = f"--collector.filesystem.mount-points-exclude={EXCLUDED_MOUNT_POINTS}|{MOUNT_POINTS}"
    with running("prometheus-node-exporter", f"--web.listen-address={place}", excluded, cwd=tmp_path):
        get_when_ready(f"http://{place}/metrics", "node_load1")
        yield place


@pytest.fixture
def prometheus(node_exporter: str, tmp_path: Path) -> Iterator[str]:
    place = f"127.0.0.1:{free_port()}"
    configuration = tmp_path / "prometheus.yml"
    configuration.write_text(
        "scrape_configs:\n- job_name: node\n  scrape_interval: 1s\n"
        f"  static_configs: [{{targets: ['{node_exporter}']}}]\n"
    )
    options = (
        f"--config.file={configuration}",
        f"--storage.tsdb.path={tmp_path}/tsdb",
        f"--web.listen-address={place}",
    )
    with running("prometheus", *options, cwd=tmp_path):
        get_when_ready(f"http://{place}/federate?match[]=node_load1", "node_load1{")
        yield place


def collect(address: str, *, honor_labels: bool = False) -> Collected:
    source = PrometheusSource(name="test", targets=(address,), honor_labels=honor_labels)
    (one,) = PrometheusCollector().collect(source, [Target(1, address, OWN)])
    assert one.error is None
    return one


Values = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read(one: Collected) -> Values:
    """The values by name and labels, without the report's."""
    return {
        (key.metric, frozenset(key.labels)): value
        for batch in one.batches
        for key, value in zip(batch.keys, batch.values.tolist(), strict=True)
        if frozenset(key.labels) != frozenset(OWN) or not key.metric.startswith(("up", "scrape_"))
    }


def expected(text: str, added: tuple[tuple[str, str], ...] = ()) -> Values:
    """The same by the stock parser from what a plain GET gives."""
    values = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = dict((*added, *sample.labels.items()))
            identity = frozenset((name, value) for name, value in labels.items() if value)
            values[sample.name, identity] = float(sample.value)
    return values


def test_a_real_node_exporter_is_read_whole(node_exporter: str) -> None:
    one = collect(f"http://{node_exporter}/metrics")
    shown = expected(get(f"http://{node_exporter}/metrics"), OWN)
    values = read(one)
    assert set(values) == set(shown)
    assert one.samples == len(values) > 200
    still = [
        key for key in shown if key[0] in ("node_boot_time_seconds", "node_memory_MemTotal_bytes", "node_uname_info")
    ]
    assert [values[key] for key in still] == [shown[key] for key in still]
    kinds = {key.metric: key.kind for key in one.batches[0].keys}
    assert (kinds["node_cpu_seconds_total"], kinds["node_load1"]) == (Kind.COUNTER, Kind.GAUGE)


def test_the_federation_of_a_real_prometheus_is_read_with_its_own_labels_and_instants(prometheus: str) -> None:
    address = f"http://{prometheus}/federate?match[]=%7Bjob%3D%22node%22%7D"
    deadline = time.monotonic() + MOST_SECONDS
    before, one, after = "", None, None
    while before != after:  # until no scrape of Prometheus fell between the two answers
        assert time.monotonic() < deadline, "each time a scrape fell between the two answers"
        before, one, after = get(address), collect(address, honor_labels=True), get(address)
    values, shown = read(one), expected(after)
    assert set(values) == set(shown)
    np.testing.assert_array_equal([values[key] for key in shown], list(shown.values()))
    (_, batch) = one.batches
    assert int(batch.at.timestamp() * 1_000) == int(after.split("\n")[1].rpartition(" ")[2])
