"""What `deploy/` ships is what the service understands, as far as that can be told without running it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aggregator.config.environment import SCALARS
from aggregator.config.load import load_settings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("aggregator*.service"))
VARIABLE = re.compile(r"\bAGGREGATOR_[A-Z_]+\b")
KNOWN_VARIABLES = {f"AGGREGATOR_{name.upper()}{file}" for name in SCALARS for file in ("", "_FILE")} | {
    "AGGREGATOR_CONFIG"
}
#: What would show other mounts, disks or owners than the machine's, or keep commands from running.
HIDING = (
    *("ProtectSystem=", "ProtectHome=", "PrivateTmp=", "PrivateDevices=", "ProtectKernelModules=", "ProtectProc="),
    *("ProcSubset=", "PrivateUsers=", "ReadOnly", "Inaccessible", "MemoryDenyWriteExecute="),
)
#: What `systemd-analyze security` may find exposed at most, of 10.
MOST_EXPOSED = 3.0
WORKERS = ("worker-1", "worker-2")
#: Margin for what follows the soft shutdown: stopping children and closing connections.
STOP_MARGIN_SECONDS = 10


def _require(program: str) -> str:
    """The program's path; without it the test skips on a laptop and fails where servers are required."""
    found = shutil.which(program)
    if found is None:
        (pytest.fail if os.environ.get("AGGREGATOR_TEST_REQUIRE_SERVERS") else pytest.skip)(
            f"{program} is not installed"
        )
    return str(found)


def _run(*arguments: str) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def _compose() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return loaded


def _soft_shutdown_seconds() -> float:
    found = re.search(r"^worker_soft_shutdown_timeout = ([\d.]+)", (ROOT / "celeryconfig.py").read_text(), re.MULTILINE)
    assert found
    return float(found[1])


def test_systemd_accepts_every_unit_without_a_warning(tmp_path: Path) -> None:
    program = _require("systemd-analyze")
    for unit in [*UNITS, DEPLOY / "systemd" / "aggregator.target"]:
        # Programs and files of an installation do not exist here; everything else is verified as shipped.
        text = re.sub(r"^ExecStart=\S+", f"ExecStart={shutil.which('true')}", unit.read_text(), flags=re.MULTILINE)
        (tmp_path / unit.name).write_text(text)
    assert _run(program, "verify", *(str(path) for path in sorted(tmp_path.iterdir()))) == ""


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_a_unit_never_gives_up_and_runs_without_rights(unit: Path) -> None:
    lines = unit.read_text().splitlines()
    assert {"User=aggregator", "NoNewPrivileges=yes", "CapabilityBoundingSet=", "StartLimitIntervalSec=0"} <= {*lines}
    assert "Restart=always" in lines or "Type=oneshot" in lines


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_a_unit_is_hardened(unit: Path) -> None:
    said = _run(_require("systemd-analyze"), "security", "--offline=true", str(unit))
    level = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert level, said
    assert float(level[1]) < MOST_EXPOSED


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_a_unit_reads_its_settings_from_etc_default_and_its_secrets_from_credentials(unit: Path) -> None:
    text = unit.read_text()
    assert "\nEnvironmentFile=-/etc/default/aggregator\n" in text
    loaded = dict(line.split(":") for line in re.findall(r"^LoadCredential=(.+)$", text, re.MULTILINE))
    used = re.findall(r"^Environment=AGGREGATOR_\w+_FILE=%d/(\S+)$", text, re.MULTILINE)
    assert list(loaded) == used
    # The same files that commands find by the shipped aggregator.toml.
    shipped = (DEPLOY / "systemd" / "aggregator.toml").read_text()
    assert {path.removeprefix("/etc/aggregator/") for path in loaded.values()} <= set(
        re.findall(r'_file = "(.+)"', shipped)
    )


def test_systemd_and_compose_wait_longer_than_the_soft_shutdown_takes() -> None:
    needed = _soft_shutdown_seconds() + STOP_MARGIN_SECONDS
    unit = (DEPLOY / "systemd" / "aggregator-worker.service").read_text()
    waits = re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert waits
    assert float(waits[1]) >= needed
    assert "KillSignal=SIGQUIT" in unit
    for worker in (_compose()["services"][name] for name in WORKERS):
        assert float(worker["stop_grace_period"].removesuffix("s")) >= needed
        assert worker["stop_signal"] == "SIGQUIT"


def test_the_worker_sees_the_machine_s_own_mounts() -> None:
    lines = (DEPLOY / "systemd" / "aggregator-worker.service").read_text().splitlines()
    assert [line for line in lines if line.startswith(HIDING)] == []


@pytest.mark.parametrize(
    "path",
    sorted(path for path in DEPLOY.rglob("*") if path.is_file() and path.suffix != ".pyc"),
    ids=lambda path: path.name,
)
def test_every_variable_that_is_set_exists(path: Path) -> None:
    assert set(VARIABLE.findall(path.read_text())) <= KNOWN_VARIABLES


def test_the_configuration_of_compose_is_valid_and_scrapes_its_own_services() -> None:
    settings = load_settings(DEPLOY / "aggregator.toml", environment={"HOME": "/nonexistent"})
    services = _compose()["services"]
    hosts = re.findall(r"http://([\w-]+):", repr(settings.sources))
    assert hosts
    assert set(hosts) <= set(services)


def test_compose_starts_the_service_only_on_a_migrated_schema() -> None:
    services = _compose()["services"]
    for name in (*WORKERS, "beat", "web"):
        assert services[name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
    for service in services.values():
        assert "image" in service
        assert set(service.get("depends_on", {})) <= set(services)


def test_compose_publishes_ports_on_loopback_only() -> None:
    ports = [port for service in _compose()["services"].values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("path", sorted((DEPLOY / "prometheus").glob("*.yml")), ids=lambda path: path.name)
def test_prometheus_accepts_its_configuration(path: Path) -> None:
    assert "SUCCESS" in _run(_require("promtool"), "check", "config", str(path))


def test_the_image_copies_what_exists_and_does_not_run_as_root() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    copied = [word for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE) for word in line.split()]
    assert copied
    kept = {
        line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    }
    assert set(copied) <= kept
    assert all((ROOT / name).exists() for name in copied)
    final_stage = text.rpartition("\nFROM ")[2]
    # A number: Kubernetes cannot tell whether a name is root's.
    user = re.search(r"^USER (\d+):\d+$", final_stage, re.MULTILINE)
    assert user
    assert int(user[1]) > 0
    assert f"--uid {user[1]} " in final_stage
    assert re.search(r"^HEALTHCHECK ", final_stage, re.MULTILINE)


def test_a_linter_of_images_finds_nothing() -> None:
    program = Path(sys.executable).with_name("hadolint")
    assert _run(str(program), "--failure-threshold", "style", str(DEPLOY / "Dockerfile")) == ""


def test_the_image_is_without_the_embedded_servers() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    installed = re.findall(r"/opt/aggregator/bin/pip install (.+)", text)
    assert [words for words in installed if "up.lock" in words or "[up]" in words] == []


@pytest.mark.parametrize("lock", re.findall(r"requirements/\S+\.lock", (DEPLOY / "Dockerfile").read_text()))
def test_the_image_installs_from_a_lock_that_exists(lock: str) -> None:
    assert (ROOT / lock).is_file()
