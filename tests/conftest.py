"""Real servers for the tests: one PostgreSQL and one Valkey per session, a fresh database for each test."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis
from hypothesis import HealthCheck, settings

from aggregator.embedded import postgres_settings
from aggregator.embedded.postgres import EmbeddedPostgres
from aggregator.embedded.valkey import EmbeddedValkey
from aggregator.embedded.wheels import postgres_binaries, valkey_binary
from aggregator.storage.migrate import upgrade
from tests.databases import create_database, drop_database
from tests.templates import BroughtUp

if TYPE_CHECKING:
    from collections.abc import Iterator

# How long an example takes says more about the machine, and what else it does, than about the code.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

_TEMPLATE = "migrated_template"
_numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def process_as_before() -> Iterator[None]:
    """What a command that ran in this process has set ends with its test: variables (`--config`), where logs go."""
    before, root = dict(os.environ), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in os.environ.keys() - before.keys():
        if name.startswith("AGGREGATOR_"):
            del os.environ[name]
    os.environ.update({name: value for name, value in before.items() if name.startswith("AGGREGATOR_")})


@pytest.fixture(scope="session")
def open_directory() -> Iterator[Path]:
    """A directory that any user can pass through: pytest's own are closed to the user that PostgreSQL runs as."""
    directory = Path(tempfile.mkdtemp(prefix="aggregator-test-", dir="/tmp"))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server(open_directory: Path) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL of the wheel, not durable, with a role that may create databases and roles.

    AGGREGATOR_TEST_POSTGRES_BIN names the directory of another version's binaries.
    """
    other = os.environ.get("AGGREGATOR_TEST_POSTGRES_BIN")
    binaries = Path(other) if other else postgres_binaries()
    with pytest.MonkeyPatch.context() as patch:
        # It would be in the way of drops, which wait briefly. Switched off it would be a fault that the doctor finds.
        patch.setitem(postgres_settings._SETTINGS, "autovacuum_naptime", "1d")
        with EmbeddedPostgres(open_directory / "pg", binaries=binaries, port=None, fsync=False) as server:
            yield server


@pytest.fixture(scope="session")
def migrated_template(postgres_server: EmbeddedPostgres) -> str:
    """The name of a database with the schema at head, to be copied."""
    upgrade(create_database(postgres_server, _TEMPLATE))
    return _TEMPLATE


@pytest.fixture
def empty_database_url(postgres_server: EmbeddedPostgres) -> Iterator[str]:
    """A fresh database with nothing in it."""
    yield from _fresh_database(postgres_server, "template1")


@pytest.fixture
def database_url(postgres_server: EmbeddedPostgres, migrated_template: str) -> Iterator[str]:
    """A fresh database with the schema at head."""
    yield from _fresh_database(postgres_server, migrated_template)


@pytest.fixture(scope="session")
def brought_up(postgres_server: EmbeddedPostgres, migrated_template: str) -> BroughtUp:
    """Makes databases that workers can use, by their configuration and the present."""
    return BroughtUp(postgres_server, migrated_template)


@pytest.fixture(scope="session")
def valkey_server(open_directory: Path) -> Iterator[EmbeddedValkey]:
    """A Valkey of the wheel."""
    with EmbeddedValkey(open_directory / "vk", binary=valkey_binary()) as server:
        yield server


@pytest.fixture
def cache_url(valkey_server: EmbeddedValkey) -> str:
    """An empty cache, in the form of redis-py."""
    return _emptied(valkey_server.cache_url, valkey_server.cache_url)


@pytest.fixture
def broker_url(valkey_server: EmbeddedValkey) -> str:
    """An empty broker, in the form of Celery."""
    return _emptied(valkey_server.broker_url, valkey_server.cache_url.replace("?db=1", "?db=0"))


def _emptied(url: str, client_url: str) -> str:
    with closing(redis.Redis.from_url(client_url)) as client:
        client.flushdb()
    return url


def _fresh_database(server: EmbeddedPostgres, template: str) -> Iterator[str]:
    name = f"test_{next(_numbers)}"
    yield create_database(server, name, template=template)
    drop_database(server, name)
