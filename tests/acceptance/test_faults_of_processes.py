"""Processes that are killed, stopped and paused while sources run: they come back, and the ledger is complete."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.faults import processes
from tests.acceptance.faults.fault import IS_LONG, endure_all
from tests.acceptance.faults.scene import Cast, Scene, scene
from tests.acceptance.ledger_check import assert_no_slot_was_caught_up

pytestmark = pytest.mark.acceptance


@pytest.fixture
def here(open_directory: Path, tmp_path: Path) -> Iterator[Scene]:
    with scene(tmp_path / "machines", open_directory / tmp_path.name, cast=Cast(workers=2)) as made:
        yield made


def test_processes_that_are_killed_stopped_and_paused_lose_nothing(here: Scene) -> None:
    faults = processes.FAULTS if IS_LONG else processes.QUICK
    assert len(endure_all(here, faults)) == len(faults)
    here.check().assert_right()
    # A message that is in a worker's hands waits for its children to begin.
    assert_no_slot_was_caught_up(here.database_url, waited_seconds=30)
