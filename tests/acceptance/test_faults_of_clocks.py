"""Clocks are set forward and back while sources run: no sample stands at a wrong time, nothing is dropped too early."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import missing
from tests.acceptance.faults import clock
from tests.acceptance.faults.fault import IS_LONG, endure_all
from tests.acceptance.faults.scene import Cast, Scene, scene
from tests.acceptance.machines import PATIENCE, ask, rows

pytestmark = pytest.mark.acceptance

#: Samples, slots or partitions that by PostgreSQL's own clock cannot be of this test.
_OF_ANOTHER_TIME = """
    SELECT (SELECT count(*) FROM aggregator.sample_frame WHERE abs(extract(epoch FROM at - received_at)) > 60)
        + (SELECT count(*) FROM aggregator.sample_frame WHERE at > now() + interval '1 minute')
        + (SELECT count(*) FROM aggregator.sample_frame WHERE at < now() - interval '10 minutes')
        + (SELECT count(*) FROM aggregator.shard_slots WHERE last_slot > now() + interval '1 minute')
        + (SELECT count(*) FROM aggregator.wakes WHERE slot > now() + interval '1 minute')
        + (SELECT count(*) FROM aggregator.retained)
"""


@pytest.fixture
def here(open_directory: Path, tmp_path: Path) -> Iterator[Scene]:
    faketime = clock.library()
    if faketime is None:
        missing("libfaketime")
    else:
        cast = Cast(workers=2, environment=clock.environment(faketime, tmp_path / "python"))
        with scene(tmp_path / "machines", open_directory / tmp_path.name, cast=cast) as made:
            yield made


def test_nothing_is_stored_by_a_clock_that_is_wrong_and_all_goes_on_when_it_is_right(here: Scene) -> None:
    faults = clock.FAULTS if IS_LONG else clock.FAULTS[::3]
    assert len(endure_all(here, faults)) == len(faults)
    assert ask(here.database_url, _OF_ANOTHER_TIME) == 0, rows(here.database_url, "SELECT * FROM aggregator.wakes")
    assert here.wait(lambda: "clock_set_back" in here.said(), PATIENCE)
    here.check().assert_right()
