"""The session of every Celery tutorial, on our tasks: a worker, `inspect registered`, `.delay()` and `.get()`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from aggregator.embedded.valkey import EmbeddedValkey
from tests.acceptance.machines import Machine, Running, machines

pytestmark = pytest.mark.acceptance

CONFIGURATION = """
[[sources]]
name = "listing"
kind = "command"
command = ["ls", "-l", "{folder}"]
parse = {{ regex = '^total (?P<blocks>\\d+)' }}
interval = "1d"

[[sources]]
name = "failing"
kind = "command"
command = ["ls", "/no/such/place"]
interval = "1d"
"""


@dataclass(frozen=True)
class Session:
    """A machine with a worker that is ready."""

    machine: Machine
    worker: Running
    folder: Path

    def __call__(self, code: str) -> str:
        """What another Python process prints that imports our task and nothing else."""
        return self.machine.python_session(f"from aggregator.tasks import app, collect\n{code}")


def make_session(urls: dict[str, str], database_url: str, folder: Path) -> Iterator[Session]:
    listed = folder / "listed"
    listed.mkdir(parents=True)
    (listed / "seen-by-ls").write_text("x" * 10_000)
    machine = Machine(folder / "home", "here", {"AGGREGATOR_DATABASE_URL": database_url, **urls})
    machine.configure(CONFIGURATION.format(folder=listed))
    with machines(machine):
        machine.run("aggregator", "db", "migrate")
        yield Session(machine, machine.start_worker(), listed)


@pytest.fixture(params=["rabbitmq", "redis"])
def session(request: pytest.FixtureRequest, database_url: str, tmp_path: Path) -> Iterator[Session]:
    if request.param == "rabbitmq":
        url = request.getfixturevalue("rabbitmq").url
        urls = {"AGGREGATOR_BROKER_URL": url, "AGGREGATOR_RESULT_BACKEND": "rpc://"}
    else:
        server: EmbeddedValkey = request.getfixturevalue("valkey_server")
        broker_url = request.getfixturevalue("broker_url")
        assert server.broker_url == broker_url
        urls = {"AGGREGATOR_BROKER_URL": broker_url, "AGGREGATOR_RESULT_BACKEND": broker_url}
    yield from make_session(urls, database_url, tmp_path)


def test_the_session_of_the_tutorial(session: Session) -> None:
    # Until the one node has answered, instead of for a second.
    patience = ("--destination", "celery@here", "--timeout", "60")
    registered = session.machine.run("celery", "-A", "aggregator", "inspect", *patience, "registered").stdout
    assert "* aggregator.collect" in registered
    assert "celery@here: OK" in registered
    assert "1 node online" in registered

    said = session('report, = collect.delay("listing").get(timeout=120)\nprint(report["up"], report["output"])')
    assert said.startswith("True total ")
    assert "seen-by-ls" in said

    said = session(
        "from aggregator.errors import CollectionFailedError\n"
        'try:\n    collect.delay("failing").get(timeout=120)\n'
        "except Exception as error:\n    print(type(error).__name__, isinstance(error, CollectionFailedError), error)"
    )
    assert said.startswith("CollectionFailedError True here: ")
    assert "No such file or directory" in said

    said = session(
        'try:\n    collect.delay("lisitng").get(timeout=120)\n'
        "except Exception as error:\n    print(type(error).__name__, error)"
    )
    assert said.startswith(
        'UnknownSourceError no source is named "lisitng"; there are: failing, listing. Add [[sources]]'
    )

    said = session(
        'try:\n    app.send_task("aggregator.nope").get(timeout=120)\n'
        "except Exception as error:\n    print(type(error).__name__, error)"
    )
    assert said.startswith("NotRegistered ")
    assert "aggregator.nope" in said
    session.worker.says("task_not_registered")
    log = session.worker.log.read_text()
    assert "inspect registered" in log  # the remedy
    assert "aggregator.collect" in log
