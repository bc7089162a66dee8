"""What must stay flat for months: memory, file descriptors, files, tables, queues, connections, log lines."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import psutil
import psycopg2
import redis

from tests.acceptance.faults.scene import Scene
from tests.acceptance.faults.servers import Redis
from tests.acceptance.machines import rows

_MEGABYTE = 1e6
_DATABASE = """
    SELECT (SELECT count(*) FROM aggregator.dirty), (SELECT count(*) FROM aggregator.dirty WHERE due <= now()),
        pg_total_relation_size('aggregator.dirty'), pg_database_size(current_database()),
        (SELECT count(*) FROM pg_stat_activity
         WHERE datname = current_database() AND application_name LIKE 'aggregator%%')
"""
LINES_OVER_SECONDS = 120.0
#: What may be used more at the end than at the beginning: a share, and an amount beside it.
ALLOWED = {
    "memory MB": (0.25, 15.0),
    "descriptors": (0.1, 20.0),
    "metric files": (0.0, 4.0),
    "metric files kB": (0.1, 500.0),
    "dirty rows": (0.5, 100.0),
    "dirty rows due": (0.5, 60.0),
    "dirty table kB": (0.5, 600.0),
    "queued messages": (0.0, 30.0),
    "unacked messages": (0.5, 60.0),
    "database sessions": (0.0, 4.0),
    "log lines a minute": (1.0, 100.0),
}


def measure(scene: Scene) -> dict[str, float]:
    """All gauges by name, as they are now; what cannot be asked at the moment is left out."""
    return dict((*_processes(scene), *_files(scene), *_of_database(scene), *_of_broker(scene)))


def _processes(scene: Scene) -> Iterator[tuple[str, float]]:
    """By kind the mean memory (PSS: what is shared is divided) of a process, and the most descriptors of one."""
    memory: defaultdict[str, list[float]] = defaultdict(list)
    descriptors: defaultdict[str, list[int]] = defaultdict(list)
    for actor in scene.actors:
        if actor.running is None or actor.running.process.poll() is not None:
            continue
        kind = actor.name.partition("-")[0]
        with contextlib.suppress(psutil.Error):
            parent = psutil.Process(actor.process_id)
            for one in (parent, *parent.children(recursive=True)):
                with contextlib.suppress(psutil.Error, OSError):
                    name = kind if one is parent else _kind(one)
                    memory[name].append(one.memory_full_info().pss / _MEGABYTE)
                    descriptors[name].append(one.num_fds())
    for name, sizes in memory.items():
        yield f"memory MB: {name}", sum(sizes) / len(sizes)
        yield f"descriptors: {name}", max(descriptors[name])


def _kind(process: psutil.Process) -> str:
    """What a child of a worker is; a command that runs is none of ours."""
    words = " ".join(process.cmdline())
    if "exporter" in words:
        return "exporter"
    return "child" if "celery" in words or "worker" in words else "command"


def _files(scene: Scene) -> Iterator[tuple[str, float]]:
    found = [one for machine in scene.machines for one in (machine.folder / "data" / "metrics").rglob("*")]
    files = [one for one in found if one.is_file()]
    yield "metric files", len(files)
    yield "metric files kB", sum(one.stat().st_size for one in files) / 1e3


def log_lines(scene: Scene) -> int:
    """How many lines all our processes have written."""
    return sum(_lines(running.log) for machine in scene.machines for running in machine.started)


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))


def _of_database(scene: Scene) -> Iterator[tuple[str, float]]:
    with contextlib.suppress(psycopg2.Error):
        waiting, due, table_bytes, database_bytes, sessions = rows(scene.database_url, _DATABASE)[0]
        yield "dirty rows", waiting
        yield "dirty rows due", due
        yield "dirty table kB", table_bytes / 1e3
        yield "database MB", database_bytes / _MEGABYTE
        yield "database sessions", sessions


def _of_broker(scene: Scene) -> Iterator[tuple[str, float]]:
    if isinstance(scene.broker, Redis):
        with contextlib.suppress(redis.RedisError), scene.broker.client() as client:
            kinds = {key: client.type(key) for key in client.scan_iter(count=1_000)}
            yield "queued messages", sum(int(client.llen(key)) for key, kind in kinds.items() if kind == "list")
            yield "unacked messages", sum(int(client.hlen(key)) for key in kinds if key.endswith("unacked"))
            yield "broker keys", len(kinds)


class Watch:
    """What was measured over a soak, and when."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.samples: list[tuple[float, dict[str, float]]] = []
        self._lines: dict[float, int] = {}

    def look(self, scene: Scene) -> None:
        """Measure once more."""
        now, lines = time.monotonic(), log_lines(scene)
        measured = measure(scene)
        # Over minutes: a fault writes some lines at once.
        since = max((at for at in self._lines if at <= now - LINES_OVER_SECONDS), default=None)
        if since is not None:
            measured["log lines a minute"] = (lines - self._lines[since]) / (now - since) * 60
        self._lines[now] = lines
        self.samples.append((now - self.started, measured))

    def names(self) -> list[str]:
        """All gauges that were ever seen."""
        return sorted({name for _, measured in self.samples for name in measured})

    def early(self, name: str) -> float | None:
        """The median between 10 and 30 % of the time; None where nothing was measured then."""
        return self._median(name, 0.1, 0.3)

    def late(self, name: str) -> float | None:
        """The median of the last fifth; None as above."""
        return self._median(name, 0.8, 1.0)

    def _median(self, name: str, begin: float, end: float) -> float | None:
        last = self.samples[-1][0]
        values = [one[name] for at, one in self.samples if begin * last <= at <= end * last and name in one]
        return median(values) if values else None

    def slope_an_hour(self, name: str) -> float:
        """By least squares over all but the first tenth."""
        last = self.samples[-1][0]
        points = [(at / 3_600, one[name]) for at, one in self.samples if at >= 0.1 * last and name in one]
        if len(points) < 2:
            return 0.0
        x, y = (sum(values) / len(points) for values in zip(*points, strict=True))
        spread = sum((at - x) ** 2 for at, _ in points)
        return sum((at - x) * (value - y) for at, value in points) / spread if spread else 0.0

    def grown(self) -> list[str]:
        """The gauges that are larger at the end than they may be."""
        return [name for name in self.names() if self._has_grown(name)]

    def _has_grown(self, name: str) -> bool:
        allowed = ALLOWED.get(name.partition(":")[0])
        if allowed is None or name.endswith("command"):
            return False
        share, amount = allowed
        early, late = self.early(name), self.late(name)
        return early is not None and late is not None and late > early * (1 + share) + amount

    def table(self) -> str:
        """Before and after, as a table of Markdown."""
        lines = ["| gauge | at 10 to 30 % | last fifth | most | slope an hour |", "| --- | --- | --- | --- | --- |"]
        for name in self.names():
            most = max(one[name] for _, one in self.samples if name in one)
            early, late = (_shown(value) for value in (self.early(name), self.late(name)))
            lines.append(f"| {name} | {early} | {late} | {most:,.1f} | {self.slope_an_hour(name):+,.1f} |")
        return "\n".join(lines)


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}"
