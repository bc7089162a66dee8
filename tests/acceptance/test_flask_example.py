"""The example of docs/webapp.md, from an empty virtual environment, while everything behind it fails."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from aggregator.embedded.ports import free_port
from aggregator.embedded.postgres import EmbeddedPostgres
from aggregator.embedded.process import wait_until
from aggregator.embedded.valkey import EmbeddedValkey
from aggregator.embedded.wheels import postgres_binaries, valkey_binary
from tests.acceptance.conftest import missing
from tests.acceptance.machines import COMMAND_TIMEOUT_SECONDS, PATIENCE

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "flask_app.py"
SLOW_SECONDS = 3
#: What the client must not need.
HEAVY = {"celery", "numpy", "sqlalchemy", "psycopg2-binary", "pydantic"}

pytestmark = pytest.mark.acceptance


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheels of the client and of the service, built from this checkout."""
    folder = tmp_path_factory.mktemp("wheels")
    for source in (ROOT / "deploy" / "client", ROOT):
        command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
    (client,) = folder.glob("pg_metrics_aggregator_client-*.whl")
    (service,) = set(folder.glob("*.whl")) - {client}
    return {"client": client, "service": service}


@pytest.fixture(scope="module")
def application(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example, and beside it a virtual environment with the client, Flask and waitress."""
    folder = tmp_path_factory.mktemp("application")
    shutil.copy(EXAMPLE, folder)
    venv.create(folder / "venv", with_pip=True)
    command = [
        folder / "venv/bin/pip",
        "install",
        "--quiet",
        "--retries=10",
        str(wheels["client"]),
        "flask",
        "waitress",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        missing(f"a package index ({done.stderr.strip().splitlines()[-1]})")
    return folder


def test_the_client_is_the_same_code_as_in_the_service_and_needs_redis_only(
    wheels: dict[str, Path], application: Path
) -> None:
    with zipfile.ZipFile(wheels["client"]) as client, zipfile.ZipFile(wheels["service"]) as service:
        names = {name for name in client.namelist() if name.startswith("aggregator/")}
        assert {name for name in names if not name.startswith("aggregator/client/")} == {
            "aggregator/__init__.py",
            "aggregator/errors.py",
        }
        assert all(client.read(name) == service.read(name) for name in names)
        (metadata,) = (name for name in client.namelist() if name.endswith("/METADATA"))
        needed = [line for line in client.read(metadata).decode().splitlines() if line.startswith("Requires-Dist")]
    assert needed == ["Requires-Dist: redis<9,>=6.4"]
    listed = subprocess.run(
        [application / "venv/bin/pip", "list", "--format=json"], capture_output=True, text=True, check=True
    )
    assert not {one["name"].lower() for one in json.loads(listed.stdout)} & HEAVY


@dataclass
class Served:
    """The example, as it runs."""

    port: int

    def get(self, path: str) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=15) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def value(self) -> Any:
        status, body = self.get("/api/slow")
        assert status == 200, body
        return json.loads(body)["value"]


@contextmanager
def served(application: Path, cache_url: str) -> Iterator[Served]:
    port = free_port()
    command = [application / "venv/bin/python", "-m", "waitress", f"--listen=127.0.0.1:{port}", "flask_app:app"]
    environment = {"PATH": os.environ["PATH"], "AGGREGATOR_CACHE_URL": cache_url}
    with subprocess.Popen(command, cwd=application, env=environment) as process:
        made = Served(port)

        def answers() -> bool:
            with suppress(OSError):
                return made.get("/api/none")[0] > 0
            return False

        try:
            assert wait_until(answers, PATIENCE)
            yield made
        finally:
            process.terminate()


def aggregator(environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "aggregator", *arguments]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AGGREGATOR_")}
    return subprocess.Popen(command, env=inherited | environment, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def refreshed(environment: dict[str, str]) -> str:
    with aggregator(environment, "summarize", "slow") as process:
        return process.communicate(timeout=COMMAND_TIMEOUT_SECONDS)[0]


def test_requests_wait_neither_for_a_slow_query_nor_for_a_database_that_is_stopped(
    application: Path, open_directory: Path, tmp_path: Path
) -> None:
    configuration = tmp_path / "aggregator.toml"
    configuration.write_text(
        f'[[summaries]]\nname = "slow"\nsql = "SELECT pg_sleep({SLOW_SECONDS})::text AS slept, now() AS at"\n'
    )
    with (
        EmbeddedValkey(open_directory / "flask-vk", binary=valkey_binary()) as cache,
        EmbeddedPostgres(open_directory / "flask-pg", binaries=postgres_binaries(), port=None, fsync=False) as database,
        served(application, cache.cache_url) as site,
    ):
        environment = {
            "HOME": str(tmp_path),
            "AGGREGATOR_CONFIG": str(configuration),
            "AGGREGATOR_DATABASE_URL": database.url,
            "AGGREGATOR_CACHE_URL": cache.cache_url,
        }
        assert site.get("/api/slow")[0] == 503
        with aggregator(environment, "db", "migrate") as process:
            process.communicate(timeout=COMMAND_TIMEOUT_SECONDS)
        assert refreshed(environment) == "1 summaries refreshed\n"
        first = site.value()
        with aggregator(environment, "summarize", "slow") as process:
            durations = []
            while process.poll() is None:
                started = time.monotonic()
                assert site.value()
                durations.append(time.monotonic() - started)
        # They did not wait for the query, which is what most would have done; one may wait for the machine.
        assert len(durations) > 10
        assert statistics.quantiles(durations, n=20)[-1] < SLOW_SECONDS / 2
        second = site.value()
        assert second != first
        database.stop()
        assert refreshed(environment) == ""
        assert [site.value() for _ in range(20)] == [second] * 20
        assert "<td>" in site.get("/slow")[1]
        cache.stop()
        assert site.value() == second  # the process' own memory
