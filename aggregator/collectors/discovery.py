"""Finding the targets of a `prometheus` source: those it names, and those in its service-discovery files.

The files are in Prometheus' `file_sd` format, as JSON (not YAML).
"""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yarl import URL

from aggregator.config.source_model import PrometheusSource

_LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_PARAMETER = "__param_"


@dataclass(frozen=True)
class DiscoveredTarget:
    """A target by its address (a URL) and its labels, sorted by name, without empty ones."""

    address: str
    labels: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Discovery:
    """The targets that were found, each label set once, and what was wrong on the way, as sentences."""

    targets: tuple[DiscoveredTarget, ...]
    faults: tuple[str, ...]


@dataclass
class _Found:
    targets: dict[tuple[tuple[str, str], ...], DiscoveredTarget] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def add(self, target: DiscoveredTarget) -> None:
        other = self.targets.setdefault(target.labels, target)
        if other != target:
            self.faults.append(
                f"{without_user(target.address)} has the same labels as {without_user(other.address)} and is not"
                " collected; give it a label of its own"
            )


@dataclass
class Discoverer:
    """Finds targets again and again, and remembers the last good content of each file."""

    groups_by_file: dict[str, list[Any]] = field(default_factory=dict)

    def discover(self, source: PrometheusSource) -> Discovery:
        """The targets of a source as it stands; what is wrong is a fault, and a broken file keeps what it last held."""
        found = _Found()
        for address in source.targets:
            try:
                found.add(DiscoveredTarget(address, _labels(source, _parsed(address), {})))
            except ValueError as error:
                found.faults.append(f"target {without_user(address)!r}: {error}")
        for path in self._files(source, found.faults):
            for group in self._groups(path, found.faults):
                for target in _group_targets(source, path, group, found.faults):
                    found.add(target)
        return Discovery(tuple(found.targets.values()), tuple(found.faults))

    def _files(self, source: PrometheusSource, faults: list[str]) -> Iterator[str]:
        for pattern in source.file_sd:
            paths = sorted(glob.glob(pattern))  # noqa: PTH207 - Path.glob() takes no absolute pattern
            if not paths:
                faults.append(f"file_sd {pattern} matches no file")
            yield from paths

    def _groups(self, path: str, faults: list[str]) -> list[Any]:
        """The groups of a file, or those it last held where it cannot be read now."""
        try:
            groups = json.loads(Path(path).read_text(encoding="utf-8"))
            _check_groups(groups)
        except (OSError, ValueError, RecursionError) as error:
            said = error.strerror if isinstance(error, OSError) else error
            kept = "; its last good content is used" if path in self.groups_by_file else ""
            faults.append(f"{path}: {said}{kept}")
        else:
            self.groups_by_file[path] = groups
        return self.groups_by_file.get(path, [])


def _check_groups(groups: object) -> None:
    """Raise ValueError unless this is a list of `{"targets": [text, ...], "labels": {name: text, ...}}`."""
    if not isinstance(groups, list):
        raise ValueError('not a list; write [{"targets": ["10.0.0.5:9100"], "labels": {"env": "prod"}}]')  # noqa: TRY004 - one error for every fault of a file
    for number, group in enumerate(groups, 1):
        if not isinstance(group, dict) or set(group) - {"targets", "labels"}:
            raise ValueError(f'group {number} is not of the form {{"targets": [...], "labels": {{...}}}}')
        targets, labels = group.get("targets", []), group.get("labels") or {}
        if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
            raise ValueError(f"group {number}: targets is not a list of texts")
        if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
            raise ValueError(f"group {number}: labels does not map names to texts")
        if wrong := [name for name in labels if not _LABEL_NAME.fullmatch(name)]:
            raise ValueError(f"group {number}: {wrong[0]!r} is not a label name")


def _group_targets(
    source: PrometheusSource, path: str, group: dict[str, Any], faults: list[str]
) -> Iterator[DiscoveredTarget]:
    labels: dict[str, str] = group.get("labels") or {}
    for entry in group.get("targets", []):
        try:
            url = _url(entry, labels)
            yield DiscoveredTarget(str(url), _labels(source, url, labels))
        except ValueError as error:
            faults.append(f"{path}: target {without_user(entry)!r}: {error}")


def _url(entry: str, labels: dict[str, str]) -> URL:
    """The URL of an entry such as 10.0.0.5:9100. Raises ValueError."""
    if not re.fullmatch(r"[^\s/?#]+", entry):
        raise ValueError("write host:port; scheme and path go into the labels __scheme__ and __metrics_path__")
    scheme = labels.get("__scheme__") or "http"
    if scheme not in ("http", "https"):
        raise ValueError(f"__scheme__ {scheme!r} is neither http nor https")
    path = labels.get("__metrics_path__") or "/metrics"
    parameters = {name.removeprefix(_PARAMETER): value for name, value in labels.items() if name.startswith(_PARAMETER)}
    url = _parsed(f"{scheme}://{entry}").with_path("/" + path.lstrip("/"))
    return url.with_query(parameters) if parameters else url


def _parsed(address: str) -> URL:
    """The URL, with a host. Raises ValueError, without the address: it may hold a password."""
    try:
        url = URL(address)
        is_complete = bool(url.host) and url.port is not None
    except ValueError:
        is_complete = False
    if not is_complete:
        raise ValueError("not a valid URL; write http://host:port/path")
    return url


def _labels(source: PrometheusSource, url: URL, own: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """The labels of a target: what a file says of it wins over its address, and over the source's labels."""
    host = f"[{url.host}]" if ":" in (url.host or "") else url.host
    named = {name: value for name, value in own.items() if not name.startswith("__")}
    labels = {**source.labels, "job": source.name, "instance": f"{host}:{url.port}", **named}
    return tuple(sorted((name, value) for name, value in labels.items() if value))


def without_user(address: str) -> str:
    """An address without what may be a user and password."""
    scheme, separator, rest = address.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
