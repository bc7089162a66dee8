"""The units' own commands, in the units' environment and behind their walls: they collect, and they stop in time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from aggregator.embedded.ports import free_port
from aggregator.embedded.process import end_process, start_process, wait_until
from tests.acceptance.machines import COMMAND_TIMEOUT_SECONDS, PATIENCE, ask, fetched, wait_for
from tests.acceptance.units import FOLDER, Unit

pytestmark = pytest.mark.acceptance

CONFIGURATION = """
[[sources]]
name = "host"
kind = "host"
interval = "1s"
"""
SLOW = """
[[sources]]
name = "slow"
kind = "command"
command = ["sleep", "60"]
interval = "1d"
timeout = "60s"
"""
COLLECTED = """
    SELECT count(*) >= 2 FROM aggregator.collections AS c JOIN aggregator.shards AS s ON s.id = c.shard_id
    JOIN aggregator.sources AS o ON o.id = s.source_id
    WHERE o.name = 'host' AND NOT c.by_hand AND c.finished_at IS NOT NULL AND 1 = ALL (c.outcome)
"""
SLEEPS = """
    SELECT count(*) > 0 FROM aggregator.collections AS c JOIN aggregator.shards AS s ON s.id = c.shard_id
    JOIN aggregator.sources AS o ON o.id = s.source_id WHERE o.name = 'slow' AND c.finished_at IS NULL
"""
SEE_MOUNTS = """
import json
from aggregator.collectors.host.filesystem import FileSystems
seen = [sample for sample in FileSystems().read() if sample.series.metric == "node_filesystem_readonly"]
# Below /tmp others may mount something meanwhile.
lasting = [one for one in seen if not dict(one.series.labels)["mountpoint"].startswith("/tmp/")]
print(json.dumps(sorted(f"{one.series.labels} {one.value}" for one in lasting)))
"""


@dataclass
class Host:
    """A machine on which the units are installed: its state, its secrets and its `/etc/default/aggregator`."""

    folder: Path
    secrets: dict[str, str]
    defaults: dict[str, str]
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state = self.folder / "state"
        self.state.mkdir(parents=True)
        for name, secret in self.secrets.items():
            path = self.folder / name
            path.write_text(secret + "\n")
            path.chmod(0o400)

    def environment(self, unit: Unit) -> dict[str, str]:
        """What a process of the unit gets from systemd."""
        assert unit.credentials() <= set(self.secrets)
        assert unit.settings["EnvironmentFile"] == ["-/etc/default/aggregator"]
        own = unit.environment(state=self.state, secrets=self.folder)
        return {"HOME": str(self.state), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", **own, **self.defaults}

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Start a unit's command."""
        unit = Unit(FOLDER / f"aggregator-{name}.service")
        assert unit.one("WorkingDirectory") == "%S/aggregator"
        with (self.folder / f"{name}.log").open("ab") as output:
            process = start_process(
                unit.command(bin_folder=Path(sys.executable).parent),
                output=output,
                environment=self.environment(unit),
                parent_death_signal=signal.SIGKILL,
                directory=self.state,
            )
        self.started.append(process)
        return process

    def log(self, name: str) -> str:
        """What a unit has written."""
        return (self.folder / f"{name}.log").read_text(errors="replace")[-5_000:]


def stop(
    process: subprocess.Popen[bytes], name: str, *, sent: str | None = None, may_leave: frozenset[str] = frozenset()
) -> timedelta:
    """End a unit as systemd does: its signal to the main process, then KILL to all that is left.

    Gives how long the main process took, which is less than the unit's patience. Nothing is left but what may be.
    """
    unit = Unit(FOLDER / f"aggregator-{name}.service")
    assert unit.settings["KillMode"] == ["mixed"]
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    began = time.monotonic()
    os.kill(process.pid, getattr(signal, sent or (unit.settings["KillSignal"] or ["SIGTERM"])[0]))
    process.wait(timeout=float(unit.one("TimeoutStopSec")))
    took = timedelta(seconds=time.monotonic() - began)
    # The others see that it has gone.
    wait_until(lambda: names_of(family) <= may_leave, PATIENCE)
    left = names_of(family)
    for one in family:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    assert left <= may_leave
    return took


def names_of(processes: Sequence[psutil.Process]) -> set[str]:
    """What those are called that have not ended."""
    found = set()
    for one in processes:
        with suppress(psutil.NoSuchProcess):
            if one.is_running() and one.status() != psutil.STATUS_ZOMBIE:
                found.add(one.name())
    return found


@contextmanager
def host_of(folder: Path, secrets: dict[str, str], defaults: dict[str, str]) -> Iterator[Host]:
    host = Host(folder, secrets, defaults)
    try:
        yield host
    finally:
        for process in host.started:
            end_process(process)


@pytest.fixture
def host(database_url: str, broker_url: str, cache_url: str, tmp_path: Path) -> Iterator[Host]:
    """A machine with servers elsewhere, and the configuration in a file."""
    configuration = tmp_path / "aggregator.toml"
    configuration.write_text(CONFIGURATION)
    secrets = {"database-url": database_url, "broker-url": broker_url, "cache-url": cache_url}
    defaults = {
        "AGGREGATOR_NODE": "here",
        "AGGREGATOR_CONFIG": str(configuration),
        "AGGREGATOR_EXPORTER_LISTEN": f"127.0.0.1:{free_port()}",
        "AGGREGATOR_WEB_LISTEN": f"127.0.0.1:{free_port()}",
    }
    with host_of(tmp_path / "host", secrets, defaults) as made:
        yield made


def test_the_units_migrate_collect_serve_and_stop_in_time(host: Host, database_url: str) -> None:
    migrate = host.start("migrate")
    assert migrate.wait(timeout=PATIENCE.total_seconds()) == 0, host.log("migrate")
    worker, beat, web = (host.start(name) for name in ("worker", "beat", "web"))
    wait_for(database_url, COLLECTED)
    exporter, page = host.defaults["AGGREGATOR_EXPORTER_LISTEN"], host.defaults["AGGREGATOR_WEB_LISTEN"]
    for listen, metric in ((exporter, "aggregator_collections_total"), (page, "aggregator_database_up 1.0")):
        assert wait_until(lambda: metric in fetched(f"http://{listen}/metrics"), PATIENCE), host.log("web")  # noqa: B023 - called here
    for name, process in (("beat", beat), ("web", web), ("worker", worker)):
        assert process.poll() is None, host.log(name)
        stop(process, name)
    assert ask(database_url, "SELECT count(*) FROM aggregator.collections WHERE finished_at IS NULL") == 0


@pytest.mark.parametrize(
    ("sent", "variables"),
    [("SIGQUIT", {}), ("SIGTERM", {"REMAP_SIGTERM": "SIGQUIT"})],
    ids=["as systemd and compose do", "as Kubernetes does"],
)
def test_a_worker_that_is_stopped_in_the_middle_of_a_task_ends_within_the_unit_s_patience(
    host: Host, database_url: str, sent: str, variables: dict[str, str]
) -> None:
    Path(host.defaults["AGGREGATOR_CONFIG"]).write_text(SLOW)
    host.defaults |= variables
    assert host.start("migrate").wait(timeout=PATIENCE.total_seconds()) == 0, host.log("migrate")
    worker = host.start("worker")
    assert wait_until(lambda: "ready." in host.log("worker"), PATIENCE), host.log("worker")
    unit = Unit(FOLDER / "aggregator-worker.service")
    code = "from aggregator.tasks import collect; collect.delay('slow')"
    subprocess.run(
        [sys.executable, "-c", code],
        env=host.environment(unit),
        cwd=host.state,
        check=True,
        timeout=COMMAND_TIMEOUT_SECONDS,
    )
    wait_for(database_url, SLEEPS)
    took = stop(worker, "worker", sent=sent, may_leave=frozenset({"sleep"}))
    # Not before the soft shutdown's 10 s: a task that is nearly done gets to its end. The command is systemd's to end.
    assert took > timedelta(seconds=9)


def test_the_worker_s_walls_hide_no_mount_and_make_none_read_only() -> None:
    unit = Unit(FOLDER / "aggregator-worker.service")
    inside = unit.command(bin_folder=Path(sys.executable).parent)
    until = next(place for place, word in enumerate(inside) if word.endswith("/celery"))
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(FOLDER.parents[1])}
    seen = [
        subprocess.run(
            [*walls, sys.executable, "-c", SEE_MOUNTS],
            env=environment, capture_output=True, text=True, check=True, timeout=COMMAND_TIMEOUT_SECONDS,
        ).stdout
        for walls in ([], inside[:until])
    ]  # fmt: skip
    assert json.loads(seen[0]) == json.loads(seen[1])


@pytest.mark.parametrize(
    ("attempt", "refused"),
    [
        ("socket.socket(socket.AF_PACKET, socket.SOCK_RAW)", "Address family not supported"),
        ("open('/proc/sys/kernel/hostname', 'w')", "Read-only file system"),
        ("os.nice(1)", "Operation not permitted"),
        ("os.chroot('/')", "Operation not permitted"),
    ],
)
def test_the_worker_s_walls_stand(attempt: str, refused: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can put up walls that are made of mounts")
    unit = Unit(FOLDER / "aggregator-worker.service")
    inside = unit.command(bin_folder=Path(sys.executable).parent)
    until = next(place for place, word in enumerate(inside) if word.endswith("/celery"))
    words = [*inside[:until], sys.executable, "-c", f"import os, socket; {attempt}"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=COMMAND_TIMEOUT_SECONDS)
    assert refused in done.stderr
