"""The exporter as a real process, over files that real processes wrote and were killed over."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aggregator.embedded.ports import free_port
from tests.processes import has_ended

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from email.message import Message

DEADLINE_SECONDS = 60.0
PSS_LIMIT_KB = 30_000
#: Our word for a named answer is also a type of Prometheus', and promtool does not like it in a name.
PROMISED_NAMES = "metric name should not include type 'summary'"

WRITER = """
import sys, time
from pathlib import Path
from aggregator import telemetry
directory, index, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
telemetry.install(directory, lambda: index)
telemetry.put("build_info", 1, version=sys.argv[4] if len(sys.argv) > 4 else "0.1")
telemetry.adjust("tasks_in_progress", 1, task="t")
for _ in range(count):
    telemetry.count("samples_total", source="host")
    telemetry.observe("task_duration_seconds", 0.02, task="t")
print("done", flush=True)
time.sleep(60)
"""


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.02)


@dataclass
class Running:
    """An exporter that serves."""

    process: subprocess.Popen[str]
    port: int
    directory: Path

    def get(self, path: str = "/metrics", method: str = "GET", **headers: str) -> tuple[int, Message, bytes]:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=names, method=method)
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE_SECONDS) as response:  # noqa: S310 - loopback
                return response.status, response.headers, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read()

    def value(self, series: str) -> float | None:
        found = re.search(f"^{re.escape(series)} (.+)$", self.get()[2].decode(), re.MULTILINE)
        return float(found[1]) if found else None

    def is_ready(self) -> bool:
        try:
            return self.get("/-/healthy")[0] == 200
        except OSError:
            return False


def command(port: int, directory: Path) -> list[str]:
    listen = f"127.0.0.1:{port}"
    return [sys.executable, "-m", "aggregator.serving.exporter", "--listen", listen, "--directory", str(directory)]


@contextmanager
def running(directory: Path) -> Iterator[Running]:
    port = free_port()
    with subprocess.Popen(command(port, directory), text=True, stderr=subprocess.PIPE) as process:
        exporter = Running(process, port, directory)
        try:
            wait_until(exporter.is_ready)
            yield exporter
        finally:
            process.kill()


@pytest.fixture
def exporter(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path / "metrics") as started:
        yield started


def write(directory: Path, index: int, count: int, version: str = "0.1") -> None:
    """Let a process count, and kill it without warning."""
    arguments = [sys.executable, "-c", WRITER, str(directory), str(index), str(count), version]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        process.send_signal(signal.SIGKILL)


def test_totals_are_exact_and_files_do_not_pile_up_over_killed_processes(exporter: Running) -> None:
    for count in (100, 7, 1):
        for index in (0, 1):
            write(exporter.directory, index, count)
    assert exporter.value('aggregator_samples_total{source="host"}') == 2 * 108
    assert exporter.value('aggregator_task_duration_seconds_count{task="t"}') == 2 * 108
    # Each killed process had a task in progress; only those of the last two are not known to be gone.
    assert exporter.value('aggregator_tasks_in_progress{task="t"}') == 2
    assert len(list(exporter.directory.glob("*.db"))) == 2 * 4


def test_what_a_process_said_of_itself_goes_with_its_successor(exporter: Running) -> None:
    write(exporter.directory, 0, 1, "0.1")
    write(exporter.directory, 0, 1, "0.2")
    assert exporter.value('aggregator_build_info{version="0.2"}') == 1
    assert exporter.value('aggregator_build_info{version="0.1"}') is None


@pytest.mark.parametrize("damage", ["truncated", "garbage", "foreign key", "foreign name", "huge length"])
def test_a_bad_file_is_set_aside_and_counted_and_the_rest_is_served(exporter: Running, damage: str) -> None:
    write(exporter.directory, 0, 5)
    write(exporter.directory, 1, 6)
    bad = exporter.directory / "counter_0.db"
    content = bad.read_bytes()
    damaged = {
        "truncated": content[:60],
        "garbage": os.urandom(4_096),
        "foreign key": content.replace(b'["aggregator', b'{"aggregator'),
        "foreign name": content,
        "huge length": content[:8] + b"\xff\xff\xff\x7f" + content[12:],
    }[damage]
    if damage == "foreign name":
        bad = exporter.directory / "nonsense.db"
    bad.write_bytes(damaged)
    kept = 11 if damage == "foreign name" else 6
    assert exporter.value('aggregator_samples_total{source="host"}') == kept
    assert exporter.value("aggregator_metric_files_quarantined_total") == 1
    assert [path.name for path in (exporter.directory / "quarantine").iterdir()] == [f"1-{bad.name}"]


def test_a_process_starts_over_a_bad_file_of_its_predecessor(exporter: Running) -> None:
    exporter.directory.mkdir(exist_ok=True)
    (exporter.directory / "counter_0.db").write_bytes(b"\xff" * 100)
    write(exporter.directory, 0, 3)
    assert exporter.value('aggregator_samples_total{source="host"}') == 3
    assert exporter.value("aggregator_metric_files_quarantined_total") == 1


def test_files_set_aside_are_bounded_while_their_number_goes_on(exporter: Running) -> None:
    for number in range(13):
        (exporter.directory / f"counter_{number}.db").write_bytes(b"\xff" * 100)
    assert exporter.value("aggregator_metric_files_quarantined_total") == 13
    assert len(list((exporter.directory / "quarantine").iterdir())) == 10


def test_a_file_that_its_process_has_just_begun_is_left_alone(exporter: Running) -> None:
    begun = exporter.directory / "counter_0.db"
    begun.touch()
    (exporter.directory / "counter_1.db").write_bytes(bytes(65_536))
    assert exporter.value("aggregator_metric_files_quarantined_total") == 0
    assert begun.exists()


def test_both_formats_are_served_compressed_where_that_is_accepted(exporter: Running) -> None:
    write(exporter.directory, 0, 2)
    _, headers, body = exporter.get(Accept="application/openmetrics-text;version=1.0.0", Accept_Encoding="gzip")
    assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(body).endswith(b"# EOF\n")
    _, headers, body = exporter.get()
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert b'aggregator_samples_total{source="host"} 2.0' in body


def test_other_paths_are_not_found_and_head_has_no_body(exporter: Running) -> None:
    assert exporter.get("/")[0] == 404
    assert exporter.get("/metrics/x")[0] == 404
    status, headers, body = exporter.get("/metrics", method="HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) > 0
    assert exporter.get("/metrics", method="POST")[0] == 501


def test_a_crowd_of_silent_clients_blocks_nobody(exporter: Running) -> None:
    with ExitStack() as stack:
        for _ in range(15):
            stack.enter_context(socket.create_connection(("127.0.0.1", exporter.port)))
        assert exporter.get()[0] == 200


def test_promtool_finds_nothing_to_complain_about(exporter: Running) -> None:
    write(exporter.directory, 0, 2)
    assert_clean(exporter.get()[2])


def assert_clean(metrics: bytes) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        if os.environ.get("AGGREGATOR_TEST_REQUIRE_SERVERS") == "1":
            pytest.fail("promtool is missing; install the package prometheus")
        pytest.skip("promtool is not installed")
    checked = subprocess.run([promtool, "check", "metrics"], input=metrics, capture_output=True, check=False)
    complaints = [line for line in checked.stderr.decode().splitlines() if not line.endswith(PROMISED_NAMES)]
    assert complaints == []


def test_a_taken_port_ends_it_with_one_line_that_names_the_setting(exporter: Running) -> None:
    second = subprocess.run(
        command(exporter.port, exporter.directory),
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_SECONDS,
    )
    assert second.returncode == 3
    (line,) = second.stderr.splitlines()
    assert "AGGREGATOR_EXPORTER_LISTEN" in line
    assert "a second worker on one host needs its own" in line


def test_an_address_that_makes_no_sense_is_a_usage_error(tmp_path: Path) -> None:
    arguments = [*command(1, tmp_path)[:3], "--listen", "nowhere", "--directory", str(tmp_path)]
    refused = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=DEADLINE_SECONDS)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)


def test_term_ends_it_cleanly(exporter: Running) -> None:
    exporter.process.terminate()
    assert exporter.process.wait(DEADLINE_SECONDS) == 0


def test_it_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    port = free_port()
    starter = (
        "import subprocess, sys, json, time\n"
        "child = subprocess.Popen(json.loads(sys.argv[1]))\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    arguments = [sys.executable, "-c", starter, json.dumps(command(port, tmp_path))]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        process = Running(parent, port, tmp_path)
        wait_until(process.is_ready)
        parent.send_signal(signal.SIGKILL)
    wait_until(lambda: has_ended(child))
    assert not process.is_ready()


@pytest.mark.skipif(sys.platform != "linux", reason="the size is read from /proc")
def test_it_is_lean(exporter: Running) -> None:
    write(exporter.directory, 0, 2)
    exporter.get()
    rollup = Path(f"/proc/{exporter.process.pid}/smaps_rollup").read_text()
    size = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
    assert size is not None
    assert int(size[1]) < PSS_LIMIT_KB
    code = "import sys, aggregator.serving.exporter; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"celery", "numpy", "sqlalchemy", "pydantic"} & set(loaded)
