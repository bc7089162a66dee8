"""Servers that only acceptance tests need, and that a machine may lack."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from aggregator.embedded import ports
from tests.acceptance.rabbitmq import RabbitMQ, rabbitmq_binary

REQUIRE_VARIABLE = "AGGREGATOR_TEST_REQUIRE_SERVERS"


def own_part(first: int, last: int) -> tuple[int, int]:
    """Of the ports that are tried those of this process of the suite: others do not listen on all of theirs yet."""
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % count
    width = (last - first) // count
    return first + number * width, first + (number + 1) * width


ports._PORTS = own_part(*ports._PORTS)


def missing(what: str) -> None:
    """Skip the test, or fail it where every server has to be there."""
    if os.environ.get(REQUIRE_VARIABLE) == "1":
        pytest.fail(f"{what} is not installed, and {REQUIRE_VARIABLE}=1 asks for it")
    pytest.skip(f"{what} is not installed")


@pytest.fixture(scope="session")
def rabbitmq(open_directory: Path) -> Iterator[RabbitMQ]:
    """A RabbitMQ of the system's package; several seconds to start."""
    binary = rabbitmq_binary()
    if binary is None:
        missing("rabbitmq-server")
    else:
        with RabbitMQ(open_directory / "rabbitmq", binary=binary) as server:
            yield server


@pytest.fixture
def installed() -> Installed:
    """Finds programs of the system's packages."""
    return Installed()


class Installed:
    """Programs that a test needs."""

    def __call__(self, name: str) -> str:
        """The path of a program; skips or fails the test where there is none."""
        found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin:/usr/local/bin")
        if found is None:
            missing(name)
        return str(found)
