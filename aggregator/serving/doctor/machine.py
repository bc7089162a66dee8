"""The diagnosis of this machine: data directory, disk, open files, secrets in files, metric files, the exporter."""

from __future__ import annotations

import os
import resource
import shutil
import stat
import tomllib
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from aggregator.metric_files import quarantined
from aggregator.serving.doctor.finding import Finding, fine, unknown, warning, wrong

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aggregator.config.model import Settings

#: A disk with less left than this share, or these bytes, is soon full.
LEFT_SHARE, LEFT_BYTES = 0.05, 1_000_000_000
NOTHING_LEFT_BYTES = 50_000_000
#: A collection asks 256 targets at once.
LEAST_OPEN_FILES = 1_024
EXPORTER_TIMEOUT_SECONDS = 2.0
_URLS = ("database_url", "broker_url", "cache_url", "result_backend")


def diagnose(settings: Settings, *, runs_worker: bool) -> Iterator[Finding]:
    """Findings on this machine; `runs_worker`: a worker of it was seen lately, so it has an exporter."""
    yield _data_directory(settings.data_dir)
    yield _open_files()
    if settings.file is not None:
        yield _secrets(settings.file)
    yield _metric_files(settings.data_dir / "metrics" / settings.node)
    if runs_worker:
        yield _exporter(settings.exporter_listen)


def _data_directory(directory: Path) -> Finding:
    about = "data directory"
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        remedy = "run as the user of the service, or let AGGREGATOR_DATA_DIR name a directory that it owns"
        return wrong(about, f"{existing} may not be written to", remedy)
    usage, inodes = shutil.disk_usage(existing), os.statvfs(existing)
    says = f"{directory}: {usage.free / 1e9:,.1f} of {usage.total / 1e9:,.1f} GB free"
    remedy = "free some space there: metric files and the spool of imports need it, and PostgreSQL if it is on it"
    if usage.free < NOTHING_LEFT_BYTES or (inodes.f_files and not inodes.f_favail):
        return wrong(about, f"{says}: it is full", remedy)
    if usage.free < max(min(LEFT_BYTES, usage.total / 2), LEFT_SHARE * usage.total):
        return warning(about, says, remedy)
    return fine(about, says)


def _open_files() -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    says = "no limit" if soft == resource.RLIM_INFINITY else f"at most {soft:,}"
    if soft != resource.RLIM_INFINITY and soft < LEAST_OPEN_FILES:
        return warning("open files", says, f"allow {LEAST_OPEN_FILES:,}: LimitNOFILE of the unit, or ulimit -n")
    return fine("open files", says)


def _secrets(file: Path) -> Finding:
    """Whether a file that everybody may read has a password in it."""
    about = "configuration file"
    with suppress(OSError, ValueError):
        document = tomllib.loads(file.read_text(encoding="utf-8"))
        databases = document.get("databases", {})
        given = [document.get(name) for name in _URLS] + [one.get("url") for one in databases.values()]
        readable = file.stat().st_mode & stat.S_IROTH
        if readable and any("@" in str(url) for url in given if url):
            remedy = f"chmod o= {file}, or put the URL into a file of its own and name it (..._file)"
            return warning(about, f"{file} has a URL with a password, and everybody may read it", remedy)
    return fine(about, str(file))


def _metric_files(directory: Path) -> Finding:
    count = quarantined(directory)
    if count:
        says = f"{count} could not be read and were set aside"
        return warning(
            "metric files", says, f"look into {directory / 'quarantine'}: was the disk full, or did it fail?"
        )
    return fine("metric files", "all can be read" if directory.exists() else "none yet")


def _exporter(listen: str) -> Finding:
    host, _, port = listen.rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "::": "[::1]"}.get(host, host)  # noqa: S104 - it is asked, not bound
    try:
        with urllib.request.urlopen(f"http://{host}:{port}/-/healthy", timeout=EXPORTER_TIMEOUT_SECONDS):
            return fine("exporter", f"it answers at {listen}")
    except OSError as error:
        says = f"nothing answers at {listen}: {getattr(error, 'reason', error)}"
        remedy = "let AGGREGATOR_EXPORTER_LISTEN be what this node's worker was started with, or free its port"
        return unknown("exporter", says, remedy)
