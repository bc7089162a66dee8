"""What Grafana is provisioned with, beside what the dashboards ask for and what compose mounts and sets."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.dashboards.files import FOLDER, NAMES, load

yaml = pytest.importorskip("yaml")
VARIABLE = re.compile(r"\$(\w+)")


def provisioned(kind: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((FOLDER / "provisioning" / kind / "aggregator.yaml").read_text())
    return loaded


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((FOLDER.parent / "compose.yaml").read_text())
    services: dict[str, Any] = loaded["services"]
    return services


def references(part: Any) -> list[dict[str, str]]:
    """Every reference to a data source in a dashboard."""
    if isinstance(part, dict):
        own = [part["datasource"]] if isinstance(part.get("datasource"), dict) else []
        return own + [found for value in part.values() for found in references(value)]
    return [found for value in part for found in references(value)] if isinstance(part, list) else []


@pytest.mark.parametrize("name", NAMES)
def test_a_dashboard_reads_a_data_source_that_is_provisioned(name: str) -> None:
    dashboard = load(name)
    sources = {source["uid"]: source for source in provisioned("datasources")["datasources"]}
    variable = next(one for one in dashboard["templating"]["list"] if one["type"] == "datasource")
    chosen = sources[variable["current"]["value"]]
    assert (chosen["type"], chosen["name"]) == (variable["query"], variable["current"]["text"])
    found = references(dashboard)
    assert found
    assert all(one == {"type": chosen["type"], "uid": "${datasource}"} for one in found)


def test_compose_sets_every_variable_of_the_provisioning() -> None:
    names = set(VARIABLE.findall(str(provisioned("datasources"))))
    assert names
    grafana = compose()["grafana"]
    # The password is in a file that only the entry point reads.
    given = set(re.findall(r"(\w+)=", grafana["entrypoint"][-1]))
    assert names == given | set(grafana["environment"])


def test_compose_mounts_what_grafana_reads() -> None:
    mounts = dict(volume.split(":")[:2] for volume in compose()["grafana"]["volumes"] if volume.startswith("./"))
    targets = {target: (FOLDER.parent / source).resolve() for source, target in mounts.items()}
    path = provisioned("dashboards")["providers"][0]["options"]["path"]
    assert {file.stem for file in targets[path].glob("*.json")} == set(NAMES)
    for kind in ("dashboards", "datasources"):
        assert (targets[f"/etc/grafana/provisioning/{kind}"] / "aggregator.yaml").is_file()


def test_grafana_starts_once_its_role_is_there_and_reads_as_it() -> None:
    services = compose()
    grafana, reader = services["grafana"], services["reader"]
    assert grafana["depends_on"]["reader"]["condition"] == "service_completed_successfully"
    assert f"db reader {grafana['environment']['READER_USER']} " in reader["command"][-1]
    path = "/run/secrets/reader/reader-password"
    assert f"--password-file {path} " in reader["command"][-1]
    assert f"$$(cat {path})" in grafana["entrypoint"][-1]
    place = f'@{grafana["environment"]["READER_HOST"]}/{grafana["environment"]["READER_DATABASE"]}"'
    assert place in services["secrets"]["command"][0]


def test_grafana_leaves_sessions_of_the_role_to_others() -> None:
    from aggregator.storage.reader_role import CONNECTION_LIMIT  # noqa: PLC0415 - the only test here that needs SQL

    source = next(one for one in provisioned("datasources")["datasources"] if one["uid"] == "aggregator")
    assert source["jsonData"]["maxOpenConns"] < CONNECTION_LIMIT


def test_prometheus_scrapes_the_jobs_that_the_dashboard_names() -> None:
    for name in ("compose.yml", "prometheus.yml"):
        loaded = yaml.safe_load((FOLDER.parent / "prometheus" / name).read_text())
        jobs = [job["job_name"] for job in loaded["scrape_configs"]]
        assert all(re.fullmatch("aggregator.*", job) for job in jobs)
        interval = next(one for one in provisioned("datasources")["datasources"] if one["type"] == "prometheus")
        assert loaded["global"]["scrape_interval"] == interval["jsonData"]["timeInterval"]
