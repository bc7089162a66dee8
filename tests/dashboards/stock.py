"""Real data to be read: this machine, by the collector `host` and by node_exporter, and machines of known values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psycopg2
from sqlalchemy import Connection, select

from aggregator.collectors.host import HostCollector
from aggregator.collectors.prometheus import PrometheusCollector
from aggregator.collectors.protocol import Batch, Collected, Target
from aggregator.config.source_model import HostSource, PrometheusSource
from aggregator.embedded.postgres import EmbeddedPostgres
from aggregator.exposition.series import Kind, SeriesKey
from aggregator.storage import registry, tables
from aggregator.storage.reader_role import make_reader
from tests.databases import create_database, drop_database
from tests.installation import Installation, settings_for
from tests.integration.test_sketches import ask_for

STEP = timedelta(seconds=15)
SPAN = timedelta(hours=1)
#: So many real readings of this machine, one step apart: each is read now, and given an instant of its own.
READINGS = 40
#: When a sample came that waits to be rolled up: half a step between two others.
OPEN_SINCE = timedelta(minutes=5) - STEP / 2
GIGABYTE = 2.0**30
#: The names hold what would end a literal or a string in a selector, and what means something in an expression.
INSTANCES = ("web'1", 'web"2', "10.0.0.5:9100 (a+b)")
#: Of a second's requests, so many took at most so many seconds.
BUCKETS = {"0.1": 5, "1": 10, "+Inf": 10}
HISTOGRAM = "http_request_duration_seconds_bucket"
MODES = {"idle": 0.75, "user": 0.15, "system": 0.08, "iowait": 0.02}

Values = dict[SeriesKey, float]


def known_values(instance: str, second: float) -> Values:
    """A machine with two processors, a disk, a file system and a network card, that does the same all the time."""

    def key(metric: str, kind: Kind, **labels: str) -> SeriesKey:
        return SeriesKey(metric, tuple(sorted({**labels, "instance": instance, "job": "node"}.items())), kind)

    def counter(metric: str, rate: float, **labels: str) -> tuple[SeriesKey, float]:
        return key(f"node_{metric}_total", Kind.COUNTER, **labels), rate * second

    def gauge(metric: str, value: float, **labels: str) -> tuple[SeriesKey, float]:
        return key(metric, Kind.GAUGE, **labels), value

    place = {"device": "/dev/sda1", "fstype": "ext4", "mountpoint": "/"}
    memory = {"MemTotal": 8, "MemFree": 1, "MemAvailable": 6, "SwapTotal": 2, "SwapFree": 1.5}
    return dict(
        [
            *(counter("cpu_seconds", share, cpu=cpu, mode=mode) for cpu in "01" for mode, share in MODES.items()),
            *(counter(f"disk_{name}", 100, device="sda") for name in ("read_bytes", "written_bytes")),
            *(counter(f"disk_{name}_completed", 5, device="sda") for name in ("reads", "writes")),
            counter("disk_io_time_seconds", 0.25, device="sda"),
            *(counter(f"network_{way}_bytes", 1_000, device="eth0") for way in ("receive", "transmit")),
            *(
                counter(f"network_{way}_{what}", 1, device="eth0")
                for way in ("receive", "transmit")
                for what in ("errs", "drop")
            ),
            *(counter(f"pressure_{what}_waiting_seconds", 0.1) for what in ("cpu", "io", "memory")),
            *(counter(name, 10) for name in ("context_switches", "intr", "forks")),
            *(gauge(f"node_memory_{name}_bytes", value * GIGABYTE) for name, value in memory.items()),
            gauge("node_filesystem_size_bytes", 100 * GIGABYTE, **place),
            gauge("node_filesystem_avail_bytes", 40 * GIGABYTE, **place),
            *(gauge(f"node_load{minutes}", minutes / 10) for minutes in (1, 5, 15)),
            gauge("node_procs_running", 2),
            gauge("node_procs_blocked", 1),
            gauge("node_filefd_allocated", 1_000),
            gauge("node_boot_time_seconds", 1.7e9),
            gauge("node_uname_info", 1, nodename="web", sysname="Linux", release="6.1", machine="x86_64"),
            gauge("up", 1),
            *(
                (key(HISTOGRAM, Kind.COUNTER, le=le), rate * second)
                for le, rate in (("0.1", 5), ("1", 10), ("+Inf", 10))
            ),
        ]
    )


def _target(made: Installation, source: str, job: str, instance: str) -> Target:
    labels = (("instance", instance), ("job", job))

    def work(connection: Connection) -> Target:
        source_id = connection.execute(select(tables.sources.c.id).where(tables.sources.c.name == source)).scalar_one()
        known = connection.execute(select(tables.targets).where(tables.targets.c.source_id == source_id)).all()
        entries = [registry.TargetEntry(row.address, tuple(sorted(row.labels.items()))) for row in known]
        registry.sync_targets(connection, source_id, [*entries, registry.TargetEntry(instance, labels)], now=made.now)
        chosen = (tables.targets.c.source_id == source_id) & (tables.targets.c.address == instance)
        return Target(connection.execute(select(tables.targets.c.id).where(chosen)).scalar_one(), instance, labels)

    return made.database.run(work)


@dataclass(frozen=True)
class _Machine:
    """A target, and how its values of an instant come about."""

    target: Target
    read: Callable[[datetime], Collected]
    readings: int


def _known(made: Installation, finish: datetime) -> Iterator[_Machine]:
    def read(target: Target, at: datetime) -> Collected:
        values = known_values(dict(target.labels)["instance"], (at - finish + SPAN).total_seconds())
        batch = Batch(at, tuple(values), np.array(list(values.values()), dtype=np.float64))
        return Collected(target, at, 0.01, (batch,), samples=len(values))

    for instance in INSTANCES:
        target = _target(made, "scripted", "node", instance)
        yield _Machine(target, partial(read, target), SPAN // STEP)


def _this_machine(made: Installation) -> _Machine:
    """This machine, by our own collector."""
    target, source, collector = _target(made, "host", "host", "here"), HostSource(name="host"), HostCollector()
    return _Machine(target, lambda at: _at(next(collector.collect(source, [target])), at), READINGS)


def _exporter(made: Installation, address: str) -> _Machine:
    """This machine once more, as a node_exporter says it."""
    url = f"http://{address}/metrics"
    target, source = _target(made, "scripted", "exporter", address), PrometheusSource(name="exporter", targets=(url,))
    collector = PrometheusCollector()

    def read(at: datetime) -> Collected:
        (one,) = collector.collect(source, [replace(target, address=url)])
        assert one.error is None
        return _at(replace(one, target=target), at)

    return _Machine(target, read, READINGS)


def _store(made: Installation, machines: Sequence[_Machine], finish: datetime) -> None:
    """All readings, rolled up; then of each machine one more in the past that is not: an interval that is not final."""
    for machine in machines:
        read = [machine.read(finish - STEP * number) for number in range(machine.readings, 0, -1)]
        batches = tuple(batch for one in read for batch in one.batches)
        made.collect_all([replace(read[0], batches=batches, samples=sum(one.samples for one in read))])
    made.roll_up()
    for machine in machines:
        made.collect_all([machine.read(finish - OPEN_SINCE)])


def _at(read: Collected, at: datetime) -> Collected:
    """What was collected, as if at that instant."""
    return replace(read, started_at=at, batches=tuple(Batch(at, one.keys, one.values) for one in read.batches))


@contextmanager
def stocked(
    server: EmbeddedPostgres, template: str, home: Path, *, exporter: str | None
) -> Iterator[tuple[str, datetime]]:
    """The URL of a reader of an hour of data that ends now, rolled up, and when it ends.

    `exporter`: where a node_exporter listens, if there is one.
    """
    finish = datetime.now(UTC).replace(microsecond=0)
    url = create_database(server, "dashboards", template=template)
    with closing(Installation(url, finish - SPAN, settings_for(home))) as made:
        made.now = finish
        ask_for(made, "node_load1")
        machines = [*_known(made, finish), _this_machine(made), *([_exporter(made, exporter)] if exporter else ())]
        _store(made, machines, finish)
        reader = made.database.run(lambda connection: make_reader(connection, "dashboards_reader", password=None))
    yield reader.url(url), finish
    drop_database(server, "dashboards")
    with closing(psycopg2.connect(urlsplit(url)._replace(path="/postgres").geturl())) as owner:
        owner.autocommit = True
        owner.cursor().execute("DROP ROLE dashboards_reader")
