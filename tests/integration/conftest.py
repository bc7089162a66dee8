"""A published installation for each test, and a second session beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from aggregator.storage.engine import Database
from tests.importing import Site, Sites, making_sites
from tests.installation import Installation, settings_for
from tests.sessions import session
from tests.templates import BroughtUp, installed


@pytest.fixture
def installation(brought_up: BroughtUp, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Installation]:
    """An installation whose clock stands at the `START` of the test's module."""
    with installed(brought_up, request.module.START, settings_for(tmp_path)) as made:
        yield made


@pytest.fixture
def sites(brought_up: BroughtUp, tmp_path: Path) -> Iterator[Sites]:
    """Makes installations for imports, by name."""
    with making_sites(brought_up, tmp_path) as make:
        yield make


@pytest.fixture
def site(sites: Sites) -> Site:
    """One installation for imports."""
    return sites("one")


@pytest.fixture
def other(installation: Installation) -> Iterator[Database]:
    """A second session of the same installation."""
    with session(installation.url) as made:
        yield made
