"""The Kubernetes manifest: valid, without rights, with probes, and nothing in it that the service would refuse."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from aggregator.config.load import load_settings

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = ROOT / "deploy" / "kubernetes" / "aggregator.yaml"
yaml = pytest.importorskip("yaml")
OBJECTS: dict[tuple[str, str], dict[str, Any]] = {
    (one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(MANIFEST.read_text())
}
PODS = {
    name: one["spec"]["template"]["spec"] for (_, name), one in OBJECTS.items() if "template" in one.get("spec", {})
}
CONTAINERS = {
    f"{name}/{container['name']}": (pod, container)
    for name, pod in PODS.items()
    for container in (*pod.get("initContainers", ()), *pod["containers"])
}
every_container = pytest.mark.parametrize("name", CONTAINERS)


@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_the_schemas_of_kubernetes_accept_it(version: str) -> None:
    program = Path(sys.executable).with_name("kubernetes-validate")
    check = [str(program), "--strict", "--quiet", "--kubernetes-version", version, str(MANIFEST)]
    done = subprocess.run(check, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_two_workers_two_beats_and_a_web_run() -> None:
    replicas = {
        name: one["spec"]["replicas"] for (_, name), one in OBJECTS.items() if "replicas" in one.get("spec", {})
    }
    assert replicas == {"aggregator-worker": 2, "aggregator-beat": 2, "aggregator-web": 1}


@every_container
def test_a_container_passes_as_restricted_and_says_what_it_needs(name: str) -> None:
    pod, container = CONTAINERS[name]
    assert (
        OBJECTS["Namespace", "aggregator"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    )
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    user = pod["securityContext"]["runAsUser"]
    assert f"USER {user}:{user}" in (ROOT / "deploy" / "Dockerfile").read_text()
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"cpu", "memory"} == set(container["resources"]["requests"])
    assert "memory" in container["resources"]["limits"]
    assert pod["automountServiceAccountToken"] is False


@every_container
def test_the_variables_that_kubernetes_makes_of_services_reach_no_container(name: str) -> None:
    """A Service `aggregator-web` would give AGGREGATOR_WEB_PORT, which the service refuses as no setting of its own."""
    pod, container = CONTAINERS[name]
    assert pod["enableServiceLinks"] is False
    variables = {one["name"]: one.get("value", "a-node") for one in container["env"]}
    secrets = OBJECTS["Secret", "aggregator"]["stringData"]
    assert {Path(value).name for variable, value in variables.items() if variable.endswith("_FILE")} == set(secrets)


def test_the_secrets_and_the_configuration_are_what_the_service_reads(tmp_path: Path) -> None:
    for name, secret in OBJECTS["Secret", "aggregator"]["stringData"].items():
        (tmp_path / name).write_text(secret)
    text = OBJECTS["ConfigMap", "aggregator"]["data"]["aggregator.toml"]
    (tmp_path / "aggregator.toml").write_text(text)
    _, worker = CONTAINERS["aggregator-worker/worker"]
    variables = {
        one["name"]: one.get("value", "a-node")
        .replace("/run/secrets/aggregator", str(tmp_path))
        .replace("/etc/aggregator", str(tmp_path))
        for one in worker["env"]
    }
    settings = load_settings(environment={"HOME": "/nonexistent", **variables})
    assert settings.node == "a-node"
    assert settings.database_url
    targets = {
        re.sub(r"http://([^:/]+):(\d+)/metrics", r"\1 \2", url) for url in tomllib.loads(text)["sources"][0]["targets"]
    }
    wanted = {f"aggregator-worker-{one}.aggregator-worker 9811" for one in range(2)} | {"aggregator-web 9810"}
    assert targets == wanted
    for (kind, name), one in OBJECTS.items():
        if kind == "Service":
            assert [port["port"] for port in one["spec"]["ports"]] == [{"aggregator-web": 9810}.get(name, 9811)]


def test_probes_ask_what_the_servers_answer() -> None:
    _, worker = CONTAINERS["aggregator-worker/worker"]
    _, web = CONTAINERS["aggregator-web/web"]
    assert web["readinessProbe"]["httpGet"]["path"] == "/-/ready"
    for probe in (web["livenessProbe"], worker["livenessProbe"], worker["startupProbe"], worker["readinessProbe"]):
        assert probe["httpGet"]["path"] == "/-/healthy"
    for container in (worker, web):
        assert {container[probe]["httpGet"]["port"] for probe in ("livenessProbe", "readinessProbe")} <= {
            port["name"] for port in container["ports"]
        }


def test_a_worker_s_pod_waits_longer_than_its_soft_shutdown_which_is_what_term_begins() -> None:
    pod, worker = CONTAINERS["aggregator-worker/worker"]
    found = re.search(r"^worker_soft_shutdown_timeout = ([\d.]+)", (ROOT / "celeryconfig.py").read_text(), re.MULTILINE)
    assert found
    assert pod["terminationGracePeriodSeconds"] >= float(found[1]) + 10
    assert {"name": "REMAP_SIGTERM", "value": "SIGQUIT"} in worker["env"]
