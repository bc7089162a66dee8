"""The compose file: valid, started by one command, with passwords that it makes itself and what it mounts there."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aggregator.config.load import load_settings

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
yaml = pytest.importorskip("yaml")
SERVICES: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
OURS = ("worker-1", "worker-2", "beat", "web", "reader", "migrate")
WORKERS = ("worker-1", "worker-2")


def test_the_specification_of_compose_accepts_it() -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run(
        [*check, str(DEPLOY / "compose.yaml")], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout


def test_one_command_starts_everything() -> None:
    assert {"postgres", "valkey", "beat", "web", "prometheus", "grafana", *WORKERS} <= set(SERVICES)
    assert SERVICES["beat"]["deploy"]["replicas"] == 2
    text = (DEPLOY / "compose.yaml").read_text()
    # No profile to name and no variable to set: `$$` is the container's own.
    assert not re.findall(r"(?<!\$)\$\{?\w+", text)
    assert not [name for name, service in SERVICES.items() if "profiles" in service]


def test_each_worker_has_a_node_and_a_volume_of_its_own() -> None:
    assert [SERVICES[name]["environment"]["AGGREGATOR_NODE"] for name in WORKERS] == list(WORKERS)
    assert all(f"{name}:/var/lib/aggregator" in SERVICES[name]["volumes"] for name in WORKERS)


def test_prometheus_and_the_service_itself_scrape_every_worker_and_web() -> None:
    wanted = {"worker-1:9811", "worker-2:9811", "web:9810"}
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "compose.yml").read_text())["scrape_configs"]
    assert {target for job in scraped for each in job["static_configs"] for target in each["targets"]} == wanted
    settings = load_settings(DEPLOY / "aggregator.toml", environment={"HOME": "/nonexistent"})
    assert set(re.findall(r"http://([\w-]+:\d+)/", repr(settings.sources))) == wanted


def test_all_that_is_mounted_from_here_is_here() -> None:
    mounts = [volume for service in SERVICES.values() for volume in service.get("volumes", ()) if volume[0] == "."]
    # The rules of alerts are files that Prometheus does without where there are none.
    assert [one for one in mounts if not (DEPLOY / one.split(":")[0]).exists() and "rules" not in one] == []


def test_it_makes_its_passwords_once(tmp_path: Path) -> None:
    service = SERVICES["secrets"]
    for volume in service["volumes"]:
        (tmp_path / volume.split(":")[1].lstrip("/")).mkdir()
    script = service["command"][0].replace("$$", "$")
    for name in ("secrets", "reader-secrets"):
        script = script.replace(f" /{name}/", f" {tmp_path}/{name}/")
    contents = []
    for _ in range(2):
        subprocess.run([*service["entrypoint"], script], check=True, timeout=60)
        contents.append({path.name: path.read_text() for path in tmp_path.rglob("*") if path.is_file()})
        assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*") if path.is_file()} == {0o444}
    assert contents[0] == contents[1]
    made = contents[0]
    assert made["database-url"] == f"postgresql://aggregator:{made['postgres-password']}@postgres:5432/aggregator"
    assert re.fullmatch(r"[0-9a-f]{48}", made["postgres-password"])
    assert made["reader-password"] not in made["database-url"]


def test_only_who_needs_a_password_mounts_it() -> None:
    def mounting(volume: str) -> set[str]:
        return {
            name
            for name, service in SERVICES.items()
            for mount in service.get("volumes", ())
            if mount.split(":")[0] == volume and name != "secrets"
        }

    assert mounting("secrets") == {"postgres", *OURS}
    assert mounting("reader-secrets") == {"reader", "grafana"}
    assert not re.search(r"password\s*:|://\w+:\w+@", json.dumps(SERVICES), re.IGNORECASE)


def test_our_containers_are_read_only_without_rights() -> None:
    for name in OURS:
        service = SERVICES[name]
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
        assert service["security_opt"] == ["no-new-privileges:true"]
