"""Discovery: which targets a source has, from its configuration and from files in Prometheus' format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aggregator.collectors.discovery import DiscoveredTarget, Discoverer
from aggregator.config.source_model import PrometheusSource


def source(*targets: str, **changes: Any) -> PrometheusSource:
    return PrometheusSource(name="node", targets=targets, **changes)


def write(path: Path, *groups: dict[str, Any]) -> str:
    path.write_text(json.dumps(groups))
    return str(path)


def test_a_named_target_gets_job_instance_and_the_sources_labels() -> None:
    found = Discoverer().discover(source("http://u:p@10.0.0.5:9100/metrics", "https://web/x", labels={"env": "prod"}))
    assert found.faults == ()
    assert [target.labels for target in found.targets] == [
        (("env", "prod"), ("instance", "10.0.0.5:9100"), ("job", "node")),
        (("env", "prod"), ("instance", "web:443"), ("job", "node")),
    ]
    assert found.targets[0].address == "http://u:p@10.0.0.5:9100/metrics"


def test_a_file_gives_targets_with_labels_of_its_own(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", {"targets": ["10.0.0.5:9100", "[::1]:9100"], "labels": {"env": "dev", "x": ""}})
    found = Discoverer().discover(source(file_sd=(path,), labels={"env": "prod", "dc": "1"}))
    assert found.faults == ()
    common = (("dc", "1"), ("env", "dev"))
    assert found.targets == tuple(
        DiscoveredTarget(f"http://{place}/metrics", (*common, ("instance", place), ("job", "node")))
        for place in ("10.0.0.5:9100", "[::1]:9100")
    )


def test_labels_with_two_underscores_say_how_to_ask_and_are_not_kept(tmp_path: Path) -> None:
    labels = {"__scheme__": "https", "__metrics_path__": "/probe", "__param_target": "a b", "__meta_x": "y"}
    path = write(tmp_path / "a.json", {"targets": ["h:1"], "labels": {**labels, "instance": "mine", "job": "theirs"}})
    (target,) = Discoverer().discover(source(file_sd=(path,))).targets
    assert target == DiscoveredTarget("https://h:1/probe?target=a+b", (("instance", "mine"), ("job", "theirs")))


def test_a_pattern_finds_files_as_they_come_and_go(tmp_path: Path) -> None:
    discoverer, wanted = Discoverer(), source(file_sd=(str(tmp_path / "*.json"),))
    assert [*discoverer.discover(wanted).faults] == [f"file_sd {tmp_path}/*.json matches no file"]
    write(tmp_path / "a.json", {"targets": ["a:1"]})
    write(tmp_path / "b.json", {"targets": ["b:1"]})
    assert len(discoverer.discover(wanted).targets) == 2
    (tmp_path / "a.json").unlink()
    assert [target.address for target in discoverer.discover(wanted).targets] == ["http://b:1/metrics"]


@pytest.mark.parametrize(
    "content",
    ["[", "{}", '["a:1"]', '[{"targets": "a:1"}]', '[{"targets": [1]}]', '[{"targets": [], "labels": {"a": 1}}]',
     '[{"targets": [], "labels": {"a-b": "1"}}]', "- targets: ['a:1']", "\ud800", "[" * 100_000],
)  # fmt: skip
def test_a_broken_file_is_a_fault_and_keeps_what_it_last_held(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.json"
    write(path, {"targets": ["a:1"]})
    discoverer, wanted = Discoverer(), source(file_sd=(str(path),))
    good = discoverer.discover(wanted)
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    broken = discoverer.discover(wanted)
    assert broken.targets == good.targets
    (fault,) = broken.faults
    assert fault.startswith(f"{path}: ")
    assert fault.endswith("its last good content is used")
    assert Discoverer().discover(wanted).targets == ()


def test_a_wrong_entry_is_a_fault_and_spares_the_others(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", {"targets": ["http://a:1/x", "u:hidden@b:99999", "", "good:1"]})
    found = Discoverer().discover(source("http://u:hidden@[::1/", file_sd=(path,)))
    assert [target.address for target in found.targets] == ["http://good:1/metrics"]
    assert len(found.faults) == 4
    assert "hidden" not in "".join(found.faults)


def test_of_two_targets_with_the_same_labels_the_second_is_a_fault(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", {"targets": ["a:1", "a:1"]})
    found = Discoverer().discover(source("http://a:1/other", file_sd=(path,)))
    assert [target.address for target in found.targets] == ["http://a:1/other"]
    assert len(found.faults) == 2
    assert "same labels" in found.faults[0]
