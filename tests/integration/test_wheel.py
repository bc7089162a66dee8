"""The wheel holds all that an installation needs, and puts nothing of ours beside the package."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The paths in a wheel that is built from this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_puts_only_the_package_into_site_packages(names: set[str]) -> None:
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"aggregator"}


def test_what_stands_beside_the_package_travels_inside_it(names: set[str]) -> None:
    assert "aggregator/_bundled/celeryconfig.py" in names
    versions = {f"aggregator/_bundled/{path.relative_to(ROOT)}" for path in (ROOT / "migrations").rglob("*.py")}
    assert versions <= names


def test_every_file_of_the_package_is_in_the_wheel(names: set[str]) -> None:
    files = {path for path in (ROOT / "aggregator").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {str(path.relative_to(ROOT)) for path in files} <= names


def test_licences_are_shipped(names: set[str]) -> None:
    licences = {name.rpartition("/")[2] for name in names if ".dist-info/licenses/" in name}
    assert {"LICENSE", "VALKEY-LICENSE"} <= licences


def test_nothing_of_a_working_copy_is_in_the_wheel(names: set[str]) -> None:
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".lock", ".toml.bak"))]
