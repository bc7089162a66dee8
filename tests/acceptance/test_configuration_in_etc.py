"""`ssh host aggregator status`: nothing but PATH is set, and the configuration and its secrets are in /etc."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from aggregator.storage.bootstrap import bring_up
from tests.acceptance.machines import ROOT
from tests.installation import settings_for

pytestmark = pytest.mark.acceptance

ETC = Path("/etc/aggregator")
SHIPPED = ROOT / "deploy" / "systemd" / "aggregator.toml"


@pytest.fixture
def etc(database_url: str, broker_url: str, cache_url: str) -> Iterator[Path]:
    """The shipped files, with the servers' URLs, as root installs them; gone afterwards."""
    if os.geteuid() != 0:
        pytest.skip("only root may write to /etc")
    if ETC.exists():
        pytest.skip(f"{ETC} is there already")
    secrets = ETC / "secrets"
    secrets.mkdir(parents=True)
    made = [ETC / "aggregator.toml"]
    try:
        made[0].write_text(SHIPPED.read_text())
        for name, url in (("database-url", database_url), ("broker-url", broker_url), ("cache-url", cache_url)):
            made.append(secrets / name)
            made[-1].write_text(url + "\n")
            made[-1].chmod(0o400)
        yield ETC
    finally:
        for path in made:
            path.unlink(missing_ok=True)
        secrets.rmdir()
        ETC.rmdir()


def typed(*words: str) -> subprocess.CompletedProcess[str]:
    """What a shell of sshd's would run: an environment of PATH alone, in the user's home."""
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    return subprocess.run(
        ["/bin/sh", "-c", 'exec "$@"', "sh", *words],
        env=environment, cwd="/", capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


@pytest.mark.usefixtures("etc")
def test_a_command_with_nothing_but_a_path_finds_the_servers(database_url: str, tmp_path: Path) -> None:
    assert typed("aggregator", "db", "url").stdout.strip() == database_url
    bring_up(database_url, settings_for(tmp_path), now=datetime.now(UTC))
    said = typed("aggregator", "status")
    assert said.returncode in (0, 1), said.stderr
    assert "cannot be reached" not in said.stdout + said.stderr
    assert typed("aggregator", "check").returncode == 0


def test_a_user_who_may_not_read_a_secret_is_told_which(etc: Path) -> None:
    (etc / "secrets" / "database-url").unlink()
    said = typed("aggregator", "status")
    assert said.returncode == 2
    assert f"{etc}/aggregator.toml:3: database_url_file: {etc}/secrets/database-url cannot be read" in said.stderr
    # A service gets it from elsewhere, and does not look.
    assert typed("env", "AGGREGATOR_DATABASE_URL=postgresql://h/d", "aggregator", "check").returncode == 0
