"""What our PostgreSQL is told at its start, each setting with its reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aggregator.embedded.ports import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FIRST_MAJOR_WITH_IO_METHOD = 18
FIRST_MAJOR_WITH_BUILTIN_LOCALE = 17

_SETTINGS = {
    # Small: a laptop's or a small server's share; the kernel caches the rest.
    "shared_buffers": "64MB",
    "effective_cache_size": "512MB",
    "work_mem": "8MB",
    "maintenance_work_mem": "64MB",
    "max_connections": "50",
    "max_worker_processes": "4",
    "max_parallel_workers_per_gather": "1",
    "huge_pages": "off",
    # At 4, its default, the dashboard query becomes a sequential scan: docs/pitfalls.md#random-page-cost.
    "random_page_cost": "1.1",
    # Compiling costs more than our short queries gain.
    "jit": "off",
    # Few, large checkpoints: each makes the next write of a page log all of it.
    "checkpoint_timeout": "15min",
    "max_wal_size": "512MB",
    "min_wal_size": "64MB",
    "wal_compression": "pglz",
    # The open buckets of parent tiers are rewritten all the time: vacuum earlier, with fewer workers.
    "autovacuum_max_workers": "2",
    "autovacuum_naptime": "30s",
    "autovacuum_vacuum_scale_factor": "0.05",
    "autovacuum_analyze_scale_factor": "0.05",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u %a ",
    "log_checkpoints": "off",
    "log_min_duration_statement": "2s",
    # One process less; nothing is replicated from here.
    "max_logical_replication_workers": "0",
    "password_encryption": "scram-sha-256",
}

#: Commits still reach the kernel: what is killed loses nothing, only a machine that stops does.
_NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}


def locale_arguments(major: int) -> list[str]:
    """What tells `initdb` to compare texts by their bytes, and to know the letters of all alphabets."""
    if major >= FIRST_MAJOR_WITH_BUILTIN_LOCALE:
        return ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    return ["--locale=C.UTF-8"]


def server_arguments(
    *, port: int, socket_directory: Path, cluster_name: str, major: int, is_durable: bool
) -> Iterator[str]:
    """The `-c name=value` arguments; what they set beats postgresql.conf and postgresql.auto.conf."""
    settings = _SETTINGS | {
        "listen_addresses": LOOPBACK,
        "port": str(port),
        "unix_socket_directories": str(socket_directory),
        "unix_socket_permissions": "0700",
        "cluster_name": cluster_name,
    }
    if major >= FIRST_MAJOR_WITH_IO_METHOD:
        settings["io_method"] = "sync"  # its workers are three processes that a small installation can save
    if not is_durable:
        settings |= _NOT_DURABLE
    for name, value in settings.items():
        yield from ("-c", f"{name}={value}")
