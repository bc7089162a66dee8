"""What is in force where nothing is configured: this host and the service itself, four tiers, three summaries."""

from __future__ import annotations

import os
import pwd
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_REAL_FILE_SYSTEMS = '{fstype!~"tmpfs|ramfs|squashfs|iso9660"}'

#: Tiers of the configuration override these by name, key by key, or are added.
TIERS: tuple[Mapping[str, object], ...] = (
    {"name": "1m", "step": "1m", "retention": "14d"},
    {"name": "5m", "step": "5m", "retention": "90d"},
    {"name": "1h", "step": "1h", "retention": "2y"},
    {"name": "1d", "step": "1d", "retention": "10y"},
)

#: In force unless the configuration has any [[summaries]].
SUMMARIES: tuple[Mapping[str, object], ...] = (
    {
        "name": "cpu-busy-by-host",
        "select": 'node_cpu_seconds_total{mode!="idle",mode!="iowait"}',
        "stat": "rate",
        "by": ("instance",),
        "window": "5m",
    },
    {
        "name": "fullest-file-systems",
        "select": f"node_filesystem_avail_bytes{_REAL_FILE_SYSTEMS}",
        "divide_by": f"node_filesystem_size_bytes{_REAL_FILE_SYSTEMS}",
        "stat": "last",
        "by": ("instance", "mountpoint"),
        "window": "5m",
        "order": "lowest",
    },
    {
        "name": "slowest-sources",
        "select": "scrape_duration_seconds",
        "stat": "avg",
        "by": ("job",),
        "window": "15m",
    },
)


def sources(*, exporter_listen: str, web_listen: str) -> tuple[Mapping[str, object], ...]:
    """This host, and the service's own metrics; in force unless the configuration has any [[sources]]."""
    targets = tuple(f"http://{_reachable(listen)}/metrics" for listen in (exporter_listen, web_listen))
    return (
        {"name": "host", "kind": "host", "interval": "5s"},
        {"name": "aggregator", "kind": "prometheus", "interval": "5s", "targets": targets},
    )


def _reachable(listen: str) -> str:
    """An address to call for one to listen on: every interface includes loopback."""
    host, _, port = listen.rpartition(":")
    return f"{ {'0.0.0.0': '127.0.0.1', '[::]': '[::1]', '': '127.0.0.1'}.get(host, host) }:{port}"  # noqa: S104 - compared


def node() -> str:
    """This machine's host name, with what a node's name cannot hold replaced by `-`."""
    cleaned = re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname()).lstrip("_.-")[:63]
    return cleaned or "node"


def home(environment: Mapping[str, str]) -> Path | None:
    """The user's home directory; None for a user that has none, as in some containers."""
    if environment.get("HOME"):
        return Path(environment["HOME"])
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return None


def data_dir(environment: Mapping[str, str]) -> Path | None:
    """Where state is kept: `$XDG_DATA_HOME/aggregator`, or below the home directory; None where there is neither."""
    return _xdg(environment, "XDG_DATA_HOME", ".local/share")


def user_config_dir(environment: Mapping[str, str]) -> Path | None:
    """Where a user's configuration is: `$XDG_CONFIG_HOME/aggregator`, or below the home directory."""
    return _xdg(environment, "XDG_CONFIG_HOME", ".config")


def _xdg(environment: Mapping[str, str], variable: str, fallback: str) -> Path | None:
    base = Path(environment.get(variable, ""))
    if base.is_absolute():  # the XDG specification: a relative path is to be ignored
        return base / "aggregator"
    user_home = home(environment)
    return None if user_home is None else user_home / fallback / "aggregator"
