"""Connections that go silent without being closed: everybody notices, and the ledger is complete."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.faults import network
from tests.acceptance.faults.fault import Fault, endure
from tests.acceptance.faults.scene import Cast, Scene, scene

pytestmark = pytest.mark.acceptance


@pytest.fixture
def here(open_directory: Path, tmp_path: Path) -> Iterator[Scene]:
    with scene(tmp_path / "machines", open_directory / tmp_path.name, cast=Cast()) as made:
        yield made


@pytest.mark.parametrize("fault", network.FAULTS, ids=lambda fault: fault.name)
def test_half_open(here: Scene, fault: Fault) -> None:
    endure(here, fault)
    here.check().assert_right(strays=3)
