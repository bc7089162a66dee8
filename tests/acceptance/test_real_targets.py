"""Real exporters as targets: what is stored is what an HTTP GET and the strict parser of Prometheus' client show."""

from __future__ import annotations

import itertools
import math
import re
import signal
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from prometheus_client.parser import text_string_to_metric_families

from aggregator.embedded.ports import free_port
from aggregator.embedded.process import end_process, start_process, wait_until
from tests.acceptance.conftest import Installed
from tests.acceptance.machines import PATIENCE, Machine, machines, rows

pytestmark = pytest.mark.acceptance

MOST_ROUNDS = 5
SELECTOR = quote('{job=~".+"}')
CONFIGURATION = """
[[sources]]
name = "node"
kind = "prometheus"
targets = ["{node}/metrics"]
interval = "1d"
timeout = "20s"

[[sources]]
name = "prometheus"
kind = "prometheus"
targets = ["{prometheus}/metrics"]
interval = "1d"
timeout = "20s"

[[sources]]
name = "federation"
kind = "prometheus"
targets = ["{prometheus}/federate?match[]={selector}"]
honor_labels = true
interval = "1d"
timeout = "20s"
"""
SCRAPE_CONFIGURATION = """
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: machine
    static_configs: [{{targets: ["{node}"]}}]
  - job_name: itself
    static_configs: [{{targets: ["{prometheus}"]}}]
"""
#: Sockets, files and processes are more while `aggregator collect` runs than before and after it.
MOVED_BY_ASKING = (
    "node_sockstat_",
    "node_netstat_Tcp_CurrEstab",
    "node_procs_",
    "node_filefd_allocated",
    "process_open_fds",
)
OUR_OWN = {"up", "scrape_duration_seconds", "scrape_samples_scraped"}

Series = tuple[str, tuple[tuple[str, str], ...]]


@contextmanager
def serving(argv: list[str], address: str, folder: Path, *, path: str) -> Iterator[str]:
    """A server that answers on loopback; gives its URL."""
    with (folder / f"{Path(argv[0]).name}.log").open("wb") as output:
        process = start_process(
            argv, output=output, environment={"HOME": str(folder)}, parent_death_signal=signal.SIGKILL, directory=folder
        )
    try:
        assert wait_until(lambda: process.poll() is not None or answers(f"http://{address}{path}"), PATIENCE)
        yield f"http://{address}"
    finally:
        end_process(process)


def answers(url: str) -> bool:
    try:
        get(url)
    except OSError:
        return False
    return True


def get(url: str) -> str:
    """The body, in the text format."""
    request = urllib.request.Request(url, headers={"Accept": "text/plain;version=0.0.4"})  # noqa: S310 - our own server
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - as above
        return str(answer.read().decode())


def shown(url: str) -> dict[Series, float]:
    """What a GET shows now, by the strict parser; without NaN, which is how a series says that it has no value."""
    return {
        (sample.name, tuple(sorted((name, value) for name, value in sample.labels.items() if value))): sample.value
        for family in text_string_to_metric_families(get(url))
        for sample in family.samples
        if not math.isnan(sample.value)
    }


def labelled(found: dict[Series, float], *, job: str, instance: str) -> dict[Series, float]:
    """As they are to be stored: the target's labels win, and what was exposed under their names is renamed."""
    target = {"job": job, "instance": instance}
    renamed = {}
    for (metric, labels), value in found.items():
        exposed = {(f"exported_{name}" if name in target else name): text for name, text in labels}
        renamed[metric, tuple(sorted({**exposed, **target}.items()))] = value
    return renamed


def stored(url: str, source: str, *, of_one_instant: bool) -> dict[Series, float]:
    """The newest samples of a source, whatever job their labels say; all of one instant, or each series' newest."""
    statement = """
        SELECT DISTINCT ON (e.id) v.metric, v.labels, v.value, v.time FROM aggregator.samples AS v
        JOIN aggregator.series AS e ON e.metric = v.metric AND e.labels = v.labels
        JOIN aggregator.targets AS t ON t.id = e.target_id JOIN aggregator.sources AS o ON o.id = t.source_id
        WHERE o.name = %s ORDER BY e.id, v.time DESC
    """
    found = rows(url, statement, source)
    newest = max(at for *_, at in found)
    return {
        (metric, tuple(sorted(labels.items()))): value
        for metric, labels, value, at in found
        if at == newest or not of_one_instant
    }


@pytest.fixture
def servers(tmp_path: Path, installed: Installed) -> Iterator[tuple[str, str]]:
    """The URLs of a node_exporter and of a Prometheus that scrapes it and itself."""
    node, prometheus = (f"127.0.0.1:{free_port()}" for _ in range(2))
    exporter = [installed("prometheus-node-exporter"), f"--web.listen-address={node}"]
    (tmp_path / "prometheus.yml").write_text(SCRAPE_CONFIGURATION.format(node=node, prometheus=prometheus))
    server = [
        installed("prometheus"),
        f"--config.file={tmp_path / 'prometheus.yml'}",
        f"--web.listen-address={prometheus}",
        f"--storage.tsdb.path={tmp_path / 'tsdb'}",
    ]
    with ExitStack() as stack:
        node_url = stack.enter_context(serving(exporter, node, tmp_path, path="/metrics"))
        yield node_url, stack.enter_context(serving(server, prometheus, tmp_path, path="/-/ready"))


@pytest.fixture
def machine(servers: tuple[str, str], database_url: str, tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path / "home", "here", {"AGGREGATOR_DATABASE_URL": database_url})
    node, prometheus = servers
    made.configure(CONFIGURATION.format(node=node, prometheus=prometheus, selector=SELECTOR))
    with machines(made):
        made.run("aggregator", "db", "migrate")
        yield made


def differing(before: dict[Series, float], found: dict[Series, float], after: dict[Series, float]) -> set[Series]:
    """Series that did not move between two GETs around a collection, and that the collection has otherwise.

    Also those that only the GETs have, or only the collection.
    """
    ours = {key for key in found if key[0] in OUR_OWN and key not in before}
    lacking = (set(before) & set(after)) - set(found)
    invented = set(found) - ours - set(before) - set(after)
    unmoved = {key: value for key, value in before.items() if after.get(key) == value}
    assert len(unmoved) > len(before) / 3
    others = {key for key, value in unmoved.items() if key in found and found[key] != value}
    return lacking | invented | {key for key in others if not key[0].startswith(MOVED_BY_ASKING)}


def assert_same(rounds: Iterable[set[Series]]) -> None:
    """A number of sockets may be another for a moment, between two GETs that show the same; but not each time.

    A series may come or go in that moment, too.
    """
    for left in itertools.accumulate(rounds, set.intersection):
        if not left:
            return
    assert not left, sorted(left)[:5]


def test_node_exporter_and_prometheus_are_stored_as_they_show_themselves(
    machine: Machine, servers: tuple[str, str], database_url: str
) -> None:
    for source, url in zip(("node", "prometheus"), servers, strict=True):
        instance = url.removeprefix("http://")
        shown(f"{url}/metrics")  # a server counts its readers: the first one makes their series

        def one_round(source: str = source, url: str = url, instance: str = instance) -> set[Series]:
            before = labelled(shown(f"{url}/metrics"), job=source, instance=instance)
            assert len(before) > 200
            said = machine.run("aggregator", "collect", source).stdout
            after = labelled(shown(f"{url}/metrics"), job=source, instance=instance)
            found = stored(database_url, source, of_one_instant=True)
            assert {metric for metric, _ in found if metric in OUR_OWN} == OUR_OWN
            (samples,) = re.findall(r"(\d+) samples", said)
            assert int(samples) == len(found)
            return differing(before, found, after)

        assert_same(one_round() for _ in range(MOST_ROUNDS))


def test_a_federation_keeps_the_labels_of_its_origin(
    machine: Machine, servers: tuple[str, str], database_url: str
) -> None:
    url = f"{servers[1]}/federate?match[]={SELECTOR}"
    origins = zip(servers, ("machine", "itself"), strict=True)
    scraped = {("up", (("instance", one.removeprefix("http://")), ("job", job))) for one, job in origins}
    assert wait_until(lambda: {key for key, value in shown(url).items() if value == 1} >= scraped, PATIENCE)

    #: Of earlier rounds, what is stored stays.
    shown_before: set[Series] = set()

    def one_round() -> set[Series]:
        before = shown(url)
        machine.run("aggregator", "collect", "federation")
        after = shown(url)
        # What it hands on has the instants at which it was scraped.
        found = stored(database_url, "federation", of_one_instant=False)
        shown_before.update(before, after)
        found = {key: value for key, value in found.items() if key in before or key in after or key not in shown_before}
        assert {dict(labels).get("job") for _, labels in found} == {"machine", "itself", "federation"}
        of_target = {key for key in found if dict(key[1]).get("job") == "federation"}
        assert {metric for metric, _ in of_target} == OUR_OWN
        return differing(before, {key: value for key, value in found.items() if key not in of_target}, after)

    assert_same(one_round() for _ in range(MOST_ROUNDS))
