"""`ssh host aggregator status`: nothing but PATH is set, and the configuration and its secrets are in /etc."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from aggregator.storage.bootstrap import bring_up
from tests.acceptance.machines import COMMAND_TIMEOUT_SECONDS, ROOT, right_answer
from tests.installation import settings_for

pytestmark = pytest.mark.acceptance

ETC = Path("/etc/aggregator")
SHIPPED = ROOT / "deploy" / "systemd" / "aggregator.toml"

#: As it is, but with a folder of the test's as /etc/aggregator, and for what is started here alone: $1 holds both.
OWN_ETC = """
    mount --rbind /etc "$1/before" && mount -t tmpfs tmpfs /etc && ln -s "$1"/before/* /etc/ && rm -f /etc/aggregator &&
    mkdir /etc/aggregator && mount --bind "$1/aggregator" /etc/aggregator && shift && exec "$@"
"""


@dataclass(frozen=True)
class Host:
    """A machine on which the shipped files are installed; nobody else sees them."""

    folder: Path

    @property
    def etc(self) -> Path:
        """What is seen there as /etc/aggregator."""
        return self.folder / "aggregator"

    def typed(self, *words: str) -> subprocess.CompletedProcess[str]:
        """What a shell of sshd's would run: an environment of PATH alone, in the user's home."""
        environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
        return subprocess.run(
            ["/usr/bin/unshare", "--mount", "sh", "-c", OWN_ETC, "sh", str(self.folder), *words],
            env=environment, cwd="/", capture_output=True, text=True, check=False, timeout=COMMAND_TIMEOUT_SECONDS,
        )  # fmt: skip


def may_mount() -> bool:
    """Whether a process may have mounts of its own here: in some containers even root may not."""
    words = ["/usr/bin/unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/etc"]
    try:
        return subprocess.run(words, capture_output=True, check=False, timeout=COMMAND_TIMEOUT_SECONDS).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture
def host(database_url: str, broker_url: str, cache_url: str, tmp_path: Path) -> Host:
    """The shipped files, with the servers' URLs, as root installs them."""
    if os.geteuid() != 0:
        pytest.skip("only root may read root's files in /etc")
    if not may_mount():
        pytest.skip("this user may not mount a file system of its own")
    made = Host(tmp_path)
    (tmp_path / "before").mkdir()
    secrets = made.etc / "secrets"
    secrets.mkdir(parents=True)
    (made.etc / "aggregator.toml").write_text(SHIPPED.read_text())
    for name, url in (("database-url", database_url), ("broker-url", broker_url), ("cache-url", cache_url)):
        path = secrets / name
        path.write_text(url + "\n")
        path.chmod(0o400)
    return made


def test_a_command_with_nothing_but_a_path_finds_the_servers(host: Host, database_url: str, tmp_path: Path) -> None:
    assert host.typed("aggregator", "db", "url").stdout.strip() == database_url
    bring_up(database_url, settings_for(tmp_path), now=datetime.now(UTC))
    right_answer(
        lambda: host.typed("aggregator", "status"),
        lambda said: said.returncode in (0, 1) and "cannot be reached" not in said.stdout + said.stderr,
    )
    assert host.typed("aggregator", "check").returncode == 0


def test_a_user_who_may_not_read_a_secret_is_told_which(host: Host) -> None:
    (host.etc / "secrets" / "database-url").unlink()
    said = host.typed("aggregator", "status")
    assert said.returncode == 2
    assert f"{ETC}/aggregator.toml:3: database_url_file: {ETC}/secrets/database-url cannot be read" in said.stderr
    # A service gets it from elsewhere, and does not look.
    assert host.typed("env", "AGGREGATOR_DATABASE_URL=postgresql://h/d", "aggregator", "check").returncode == 0
