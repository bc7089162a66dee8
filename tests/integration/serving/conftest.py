"""A small installation with a past: two scripted targets, a machine, a node, and what a few minutes leave behind."""

from __future__ import annotations

import uuid
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import Connection, func, insert, select, update

from aggregator import __version__
from aggregator.collectors.protocol import Target
from aggregator.exposition.series import Kind, SeriesKey
from aggregator.rollups.buckets import milliseconds
from aggregator.serving import status
from aggregator.serving.doctor import postgres
from aggregator.storage import claims, registry, tables
from aggregator.storage.engine import Database
from tests.databases import create_database, drop_database
from tests.installation import Installation, settings_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aggregator.config.model import Settings
    from aggregator.embedded.postgres import EmbeddedPostgres

GIGABYTE = 1e9
#: How old a filled database may be: a tier is stale after a few minutes.
FRESH = timedelta(seconds=30)


@dataclass(frozen=True)
class Past:
    """A filled database of a test's own."""

    url: str
    database: Database
    source_id: int


@dataclass
class Templates:
    """Databases with six minutes of samples, rolled up, to be copied: the newest, as long as what it holds is fresh."""

    server: EmbeddedPostgres
    migrated: str
    settings: Settings
    _newest: tuple[str, int, datetime] | None = None

    def fresh(self) -> tuple[str, int]:
        """The name of one that ended a moment ago, and the id of its source."""
        now = datetime.now(UTC) - timedelta(seconds=1)  # before the present of whichever test asks first
        if self._newest is None or now - self._newest[2] > FRESH:
            name = f"filled_{uuid.uuid4().hex}"
            url = create_database(self.server, name, template=self.migrated)
            with closing(Installation(url, now, self.settings)) as made:
                fill(made, now)
                self._newest = name, made.source_id, now
        return self._newest[:2]


@pytest.fixture(scope="session")
def templates(
    postgres_server: EmbeddedPostgres, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Templates:
    """Made when they are asked for: other tests may run for minutes in between, and a minute too old is stale."""
    return Templates(postgres_server, migrated_template, settings_for(tmp_path_factory.mktemp("filled")))


@pytest.fixture(scope="module", autouse=True)
def time_may_pass() -> Iterator[None]:
    """Nothing grows stale, and no clock is wrong, because a test takes its time on a busy machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(status, "SOURCE_PATIENCE", timedelta(minutes=10))
        patch.setattr(postgres, "CLOCK_TOLERANCE", timedelta(seconds=20))
        yield


@pytest.fixture
def filled(templates: Templates) -> tuple[str, int]:
    """The template of this test's database, and the id of its source."""
    return templates.fresh()


@pytest.fixture
def now(filled: tuple[str, int]) -> datetime:  # noqa: ARG001 - what takes a while comes before the present
    return datetime.now(UTC)


@pytest.fixture
def installation(filled: tuple[str, int], postgres_server: EmbeddedPostgres, now: datetime) -> Iterator[Past]:
    """Samples of six minutes, with a beat, a worker and a collection that ended well a moment ago; to be changed."""
    with copied(filled, postgres_server, now) as past:
        yield past


@pytest.fixture(scope="module")
def shared(templates: Templates, postgres_server: EmbeddedPostgres) -> Iterator[Past]:
    """The same for tests that only read: a database of its own would cost each of them half a second."""
    with copied(templates.fresh(), postgres_server, datetime.now(UTC)) as past:
        yield past


@contextmanager
def copied(filled: tuple[str, int], postgres_server: EmbeddedPostgres, now: datetime) -> Iterator[Past]:
    template, source_id = filled
    name = f"past_{uuid.uuid4().hex}"
    url = create_database(postgres_server, name, template=template)
    database = Database.connect(url, application="test")
    database.run(lambda connection: _mark(connection, now))
    yield Past(url, database, source_id)
    database.dispose()
    drop_database(postgres_server, name)


def fill(made: Installation, now: datetime) -> None:
    targets = made.targets(2)
    for number, target in enumerate(targets):
        for step in range(4):
            at = milliseconds(now) - (4 - step) * 90_000
            labels = tuple(sorted((*target.labels, ("path", "/a"))))
            values = {
                SeriesKey("up", tuple(sorted(target.labels)), Kind.GAUGE): 1.0,
                SeriesKey("temperature", labels, Kind.GAUGE): 10.0 * number + step,
                SeriesKey("requests_total", labels, Kind.COUNTER): 30.0 * step,
            }
            made.collect(target, {at: values})
    made.collect(host_target(made), host_samples(now))
    made.roll_up()


def host_target(made: Installation) -> Target:
    """The machine that source `host` observes."""
    labels = (("instance", "machine"), ("job", "host"))

    def work(connection: Connection) -> Target:
        source_id = connection.execute(select(tables.sources.c.id).where(tables.sources.c.name == "host")).scalar_one()
        registry.sync_targets(connection, source_id, [registry.TargetEntry("machine", labels)], now=made.now)
        target_id = connection.execute(
            select(tables.targets.c.id).where(tables.targets.c.address == "machine")
        ).scalar_one()
        return Target(target_id, "machine", labels)

    return made.database.run(work)


def host_samples(now: datetime) -> dict[int, dict[SeriesKey, float]]:
    def key(metric: str, kind: Kind = Kind.GAUGE, **labels: str) -> SeriesKey:
        return SeriesKey(metric, tuple(sorted({**labels, "instance": "machine", "job": "host"}.items())), kind)

    def frame(idle: float, user: float) -> dict[SeriesKey, float]:
        return {
            key("up"): 1.0,
            key("node_load1"): 0.75,
            key("node_cpu_seconds_total", Kind.COUNTER, cpu="0", mode="idle"): idle,
            key("node_cpu_seconds_total", Kind.COUNTER, cpu="0", mode="user"): user,
            key("node_memory_MemTotal_bytes"): 4 * GIGABYTE,
            key("node_memory_MemAvailable_bytes"): 3 * GIGABYTE,
            key("node_filesystem_size_bytes", device="a", mountpoint="/"): 10 * GIGABYTE,
            key("node_filesystem_avail_bytes", device="a", mountpoint="/"): 4 * GIGABYTE,
        }

    return {milliseconds(now) - 5_000: frame(100.0, 50.0), milliseconds(now): frame(104.0, 51.0)}


def _mark(connection: Connection, now: datetime) -> None:
    # Published a moment ago, however long the tests before this one took: no source is overdue yet.
    for table in (tables.installation, tables.sources):
        connection.execute(update(table).values(published_at=now))
    connection.execute(update(tables.targets).values(is_up=True, state_since=now - timedelta(minutes=6)))
    shards = select(tables.targets.c.shard_id, func.array_agg(tables.targets.c.id)).group_by(tables.targets.c.shard_id)
    for shard_id, target_ids in connection.execute(shards).all():
        connection.execute(
            insert(tables.collections).values(
                shard_id=shard_id,
                slot=now - timedelta(seconds=1),
                token=uuid.uuid4(),
                lease_until=now,
                node="test",
                started_at=now,
                finished_at=now,
                target_ids=target_ids,
                outcome=[claims.OK] * len(target_ids),
                duration_seconds=[0.1] * len(target_ids),
                samples=[3] * len(target_ids),
            )
        )
    connection.execute(insert(tables.wakes).values(job="rollup", slot=now, woken_at=now, slots_missed=4))
    registry.see_node(
        connection,
        "test",
        now=now,
        started_at=now - timedelta(minutes=6),
        config_hash=connection.execute(select(tables.installation.c.config_hash)).scalar_one(),
        version=__version__,
        exporter_url="http://127.0.0.1:9811/metrics",
    )
    # Only the two sources with samples go on, so that nothing is stale.
    names = ("scripted", "host")
    connection.execute(update(tables.sources).where(tables.sources.c.name.not_in(names)).values(active=False))
    connection.execute(
        update(tables.summaries).values(
            value=[{"instance": "t0", "value": 1.5}],
            as_of=now,
            computed_at=now,
            tier="1m",
            completeness=1.0,
            is_final=False,
            version=3,
        )
    )
