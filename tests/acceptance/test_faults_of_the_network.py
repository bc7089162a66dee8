"""Connections that go silent without being closed: everybody notices, and the ledger is complete."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.faults import network, processes
from tests.acceptance.faults.fault import IS_LONG, endure_all
from tests.acceptance.faults.scene import Scene, scene
from tests.acceptance.ledger_check import assert_no_slot_was_caught_up

pytestmark = pytest.mark.acceptance


@pytest.fixture
def here(open_directory: Path, tmp_path: Path) -> Iterator[Scene]:
    with scene(tmp_path / "machines", open_directory / tmp_path.name) as made:
        yield made


def test_connections_that_are_half_open_for_a_while_or_for_ever_lose_nothing(here: Scene) -> None:
    # Children that take others' places are forked from a worker that is connected: docs/pitfalls.md#inherited.
    faults = (processes.CHILDREN_KILLED, *(network.FAULTS if IS_LONG else network.QUICK))
    assert len(endure_all(here, faults)) == len(faults)
    here.check().assert_right()
    assert_no_slot_was_caught_up(here.database_url, waited_seconds=60)
