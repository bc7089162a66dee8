"""A second machine that knows only the URLs: it serves what the first one's file says, and never the other's slots."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.machines import BEAT, ROOT, Machine, machines, rows, wait_for

pytestmark = pytest.mark.acceptance

CONFIGURATION = """
[[sources]]
name = "host"
kind = "host"
interval = "2s"

[[sources]]
name = "listing"
kind = "command"
command = ["sh", "-c", "echo home $HOME; ls -l {folder}"]
environment = {{ HOME = "/set-by-the-source" }}
interval = "1d"

[[sources]]
name = "only-b"
kind = "command"
command = ["echo", "here"]
nodes = ["b"]
interval = "2s"
"""
#: Every collection of a node's shard by somebody else than this node.
STRAYED = """
    SELECT count(*) FROM aggregator.collections AS c JOIN aggregator.shards AS s ON s.id = c.shard_id
    JOIN aggregator.nodes AS n ON n.id = s.node_id WHERE c.node <> n.name
"""
SLOTS = """
    SELECT count(*) >= %s FROM aggregator.collections AS c JOIN aggregator.shards AS s ON s.id = c.shard_id
    JOIN aggregator.sources AS o ON o.id = s.source_id
    WHERE c.node = %s AND o.name = %s AND NOT by_hand AND finished_at IS NOT NULL
"""
#: The instances of a node's targets: one each, its own name.
INSTANCES = """
    SELECT DISTINCT n.name, v.instance FROM aggregator.samples AS v
    JOIN aggregator.series AS e ON e.metric = v.metric AND e.labels = v.labels
    JOIN aggregator.targets AS t ON t.id = e.target_id JOIN aggregator.nodes AS n ON n.id = t.node_id
    WHERE v.job = 'host' AND v.metric = 'node_load1' ORDER BY 1
"""


@dataclass(frozen=True)
class Wheel:
    """The package as it is installed: its wheel unpacked into a virtual environment without the checkout."""

    python: str

    def has_own_code(self) -> str:
        """Where it is imported from."""
        code = "import aggregator; print(aggregator.__file__)"
        return subprocess.run(
            [self.python, "-I", "-c", code], cwd="/", capture_output=True, text=True, check=True
        ).stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    """A virtual environment with the wheel; the dependencies are those of the environment that runs the tests."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder / "dist"), str(ROOT)]
    built = subprocess.run(build, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    python = folder / "venv" / "bin" / "python"
    packages = next((folder / "venv" / "lib").glob("python*/site-packages"))
    (made,) = (folder / "dist").glob("*.whl")
    subprocess.run([sys.executable, "-m", "zipfile", "-e", str(made), str(packages)], check=True)
    # Read after the wheel's own folder, so that an editable install of the checkout does not come first.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return Wheel(str(python))


@pytest.fixture
def pair(database_url: str, rabbitmq: object, wheel: Wheel, tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    """Machine a with a file and the checkout, machine b with the wheel and the URLs."""
    broker_url = str(getattr(rabbitmq, "url"))  # noqa: B009 - the fixture's type is not imported here
    urls = {
        "AGGREGATOR_DATABASE_URL": database_url,
        "AGGREGATOR_BROKER_URL": broker_url,
        "AGGREGATOR_RESULT_BACKEND": "rpc://",
        "AGGREGATOR_NAMESPACE": "pair",
    }
    first = Machine(tmp_path / "home-of-a", "a", urls)
    first.configure(CONFIGURATION.format(folder=tmp_path))
    second = Machine(tmp_path / "home-of-b", "b", urls, python=wheel.python, python_path="")
    with machines(first, second):
        first.run("aggregator", "db", "migrate")
        yield first, second


def by_name(machine: Machine, words: str) -> str:
    """The reports that a collection by hand gives."""
    return machine.python_session(
        f"from aggregator.tasks import collect\nfor report in collect.{words}.get(timeout=120):\n"
        "    print(report['instance'], report['up'], report['output'])"
    )


def test_values_of_two_machines_are_never_mixed(pair: tuple[Machine, Machine], wheel: Wheel, database_url: str) -> None:
    first, second = pair
    assert str(ROOT) not in wheel.has_own_code()
    first.start_worker()
    second.start_worker()
    first.start(*BEAT)
    for node in ("a", "b"):
        wait_for(database_url, SLOTS, 3, node, "host")
    wait_for(database_url, SLOTS, 2, "b", "only-b")

    # Either worker may read the message: each of them has to pass on what is not its own, with the way back.
    for node in ("b", "a", "b", "a"):
        said = by_name(first, f'delay("listing", node="{node}")')
        assert said.startswith(f"{node} True home /set-by-the-source")
        assert "home-of-b" in said
    assert by_name(first, 'delay("only-b")').startswith("b True here")
    refused = first.python_session(
        "from aggregator.tasks import collect\n"
        'try:\n    collect.delay("only-b", node="a").get(timeout=120)\nexcept Exception as error:\n    print(error)'
    )
    assert refused == 'source "only-b" does not run on node "a"; it runs on: b\n'

    assert rows(database_url, STRAYED) == [(0,)]
    assert rows(database_url, INSTANCES) == [("a", "a"), ("b", "b")]
