"""A published installation for each test, and a second session beside it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from aggregator.client import connections
from aggregator.serving import observer, servers
from aggregator.serving.doctor import redis_server
from aggregator.storage import reading
from aggregator.storage.engine import Database
from tests.importing import Site, Sites, making_sites
from tests.installation import Installation, settings_for
from tests.sessions import session
from tests.templates import BroughtUp, installed

#: How long those who answer people wait for a server in tests: only a server that hangs is down, no busy machine.
SLOW = timedelta(seconds=30)


@pytest.fixture(scope="module", autouse=True)
def servers_may_be_slow() -> Iterator[None]:
    """Nobody calls a server down because the machine is busy; a module that tests the promised limits has its own."""
    of_connect = reading.Reader.connect.__func__.__kwdefaults__  # type: ignore[attr-defined] # a class method
    limits = (
        (observer, "DATABASE_DOWN_AFTER_SECONDS"),
        (observer, "DOWN_AFTER_SECONDS"),
        (observer, "HEALTH_WITHIN_SECONDS"),
        (servers, "TIMEOUT_SECONDS"),
        (connections, "TIMEOUT_SECONDS"),
        (redis_server, "TIMEOUT_SECONDS"),
    )
    with pytest.MonkeyPatch.context() as patch:
        for module, name in limits:
            patch.setattr(module, name, SLOW.total_seconds())
        patch.setattr(reading, "CONNECT_TIMEOUT_SECONDS", int(SLOW.total_seconds()))
        patch.setitem(of_connect, "statement_timeout", SLOW)
        yield


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
