"""This machine, as the collector `host` and as a real node_exporter see it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
import time
import urllib.request
from typing import TYPE_CHECKING

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from aggregator.collectors.host import HostCollector, filesystem, host_parts, mounts, procfs
from aggregator.collectors.host.disk import EXCLUDED_DEVICES
from aggregator.collectors.host.filesystem import FileSystems
from aggregator.collectors.host.mounts import EXCLUDED_MOUNT_POINTS, EXCLUDED_TYPES, Mount, read_mounts
from aggregator.collectors.placing import Sample, gauge
from aggregator.collectors.protocol import Collected, Target
from aggregator.config.source_model import HostSource
from aggregator.embedded.ports import free_port
from aggregator.exposition.series import Kind
from tests.small_disk import MOUNT_POINTS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from prometheus_client.samples import Sample as ExposedSample

SOURCE = HostSource(name="host")
TARGET = Target(1, "here", (("instance", "here"), ("job", "host")))
PATIENCE_SECONDS = 60
#: How far apart two readings, a moment apart, of something that moves may lie: of the value, and in its unit.
MOVES_BY_FRACTION = 0.25
MOVES_BY = {
    "_bytes": 2e9,  # other tests fill disks in memory, and start and stop servers
    "_bytes_total": 64e6,
    "_seconds_total": 5,
    "_total": 20_000,
    "node_load": 1,
    "node_procs_": 20,
    "node_processes_": 30,
    "node_filefd_allocated": 3_000,
    "node_vmstat_": 200_000,
    "node_time_seconds": 10,
    "node_nf_conntrack_entries": 200,
    "node_filesystem_files_free": 20_000,
}
#: What must be equal to the last digit.
STANDS_STILL = re.compile(
    "node_memory_(MemTotal|SwapTotal|Hugepagesize)_bytes|node_filesystem_(size_bytes|files|readonly|device_error)"
    "|node_(boot_time_seconds|uname_info|filefd_maximum|network_up|nf_conntrack_entries_limit)"
)

Identity = tuple[str, frozenset[tuple[str, str]]]


@pytest.fixture(scope="module")
def exporter_text() -> Iterator[str]:
    binary = shutil.which("prometheus-node-exporter") or shutil.which("node_exporter")
    if binary is None:
        if os.environ.get("AGGREGATOR_TEST_REQUIRE_SERVERS") == "1":
            pytest.fail("node_exporter is not installed, and AGGREGATOR_TEST_REQUIRE_SERVERS=1 asks for it")
        pytest.skip("node_exporter is not installed")
    address = f"127.0.0.1:{free_port()}"
    # A distribution may ship it with other defaults than upstream's, which are ours.
    command = [
        binary,
        f"--web.listen-address={address}",
        "--collector.processes",
        f"--collector.filesystem.fs-types-exclude={EXCLUDED_TYPES}",
        f"--collector.filesystem.mount-points-exclude={EXCLUDED_MOUNT_POINTS}|{MOUNT_POINTS}",
        f"--collector.diskstats.device-exclude={EXCLUDED_DEVICES}",
        "--collector.netdev.device-exclude=^$",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield fetched(f"http://{address}/metrics")
        finally:
            process.terminate()


def fetched(url: str) -> str:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer:  # noqa: S310 - a server of our own on loopback
                return str(answer.read().decode())
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def own_samples() -> list[Sample]:
    """What we read, but of disks that other tests mount and unmount meanwhile."""
    samples = (sample for read in host_parts().values() for sample in read())
    return [one for one in samples if not re.match(MOUNT_POINTS, dict(one.series.labels).get("mountpoint", ""))]


def collect(collector: HostCollector) -> Collected:
    (collected,) = collector.collect(SOURCE, [TARGET])
    return collected


def identity(sample: ExposedSample) -> Identity:
    return sample.name, frozenset((name, value) for name, value in sample.labels.items() if value)


def may_differ_by(metric: str, value: float) -> float:
    allowed = [amount for part, amount in MOVES_BY.items() if metric.startswith(part) or metric.endswith(part)]
    return max([abs(value) * MOVES_BY_FRACTION, *allowed])


def test_every_sample_is_one_of_node_exporters_with_its_name_labels_type_and_value(exporter_text: str) -> None:
    theirs: dict[Identity, tuple[str, float]] = {
        identity(sample): (family.type, sample.value)
        for family in text_string_to_metric_families(exporter_text)
        for sample in family.samples
    }
    samples = own_samples()
    assert len(samples) > 50
    missing = [s.series for s in samples if (s.series.metric, frozenset(s.series.labels)) not in theirs]
    assert missing == []
    for series, value in samples:
        their_type, their_value = theirs[series.metric, frozenset(series.labels)]
        if not series.metric.startswith("node_vmstat_"):  # which they leave untyped; they are counts since boot
            assert (series.metric, their_type) == (series.metric, series.kind.name.lower())
        if STANDS_STILL.fullmatch(series.metric):
            assert (series, value) == (series, their_value)
        else:
            assert abs(value - their_value) <= may_differ_by(series.metric, their_value), (series, value, their_value)


@pytest.mark.parametrize(
    "prefix",
    ["node_cpu_", "node_load", "node_memory_", "node_filesystem_", "node_disk_", "node_network_", "node_vmstat_"],
)
def test_all_that_node_exporter_has_of_the_metrics_that_we_have_is_there(exporter_text: str, prefix: str) -> None:
    ours = {sample.series for sample in own_samples() if sample.series.metric.startswith(prefix)}
    names = {series.metric for series in ours}
    identities = {(series.metric, frozenset(series.labels)) for series in ours}
    for family in text_string_to_metric_families(exporter_text):
        for sample in family.samples:
            if sample.name in names:
                assert identity(sample) in identities


def test_a_collection_reports_and_its_keys_stay_one_object() -> None:
    collector = HostCollector()
    first, second = collect(collector), collect(collector)
    (batch,) = first.batches
    assert (first.error, first.rejected, first.batches[0].at) == (None, {}, first.started_at)
    assert [key.metric for key in batch.keys[:3]] == ["up", "scrape_duration_seconds", "scrape_samples_scraped"]
    assert batch.values[:3].tolist() == [1, first.duration_seconds, first.samples]
    assert len(batch.keys) == len(batch.values) == first.samples + 3
    assert second.batches[0].keys is batch.keys
    assert all(set(TARGET.labels) <= set(key.labels) for key in batch.keys)


def test_samples_scraped_counts_before_keep_and_drop() -> None:
    source = HostSource(name="host", keep=('node_cpu_seconds_total{mode="idle"}', "node_load1"))
    (collected,) = HostCollector().collect(source, [TARGET])
    assert collected.samples == 1 + (psutil.cpu_count() or 0)
    assert collected.batches[0].values[2] > collected.samples


def refuse() -> list[Sample]:
    raise PermissionError(13, "Permission denied")


def test_a_part_that_fails_is_counted_and_the_others_are_kept() -> None:
    collected = collect(HostCollector(parts={"disk": refuse, "load": lambda: [gauge("node_load1", 0.5)]}))
    assert (collected.error, collected.rejected, collected.samples) == (None, {"disk": 1}, 1)


def test_a_host_of_which_nothing_can_be_read_is_down() -> None:
    collected = collect(HostCollector(parts={"disk": refuse, "load": refuse}))
    assert (collected.reason, collected.batches[0].values[0]) == ("unreadable", 0)
    assert collected.error == "nothing of this machine can be read: disk, load"


@pytest.fixture
def other_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /proc of another machine, in which files can be missing."""
    from aggregator.collectors.host import kernel, memory, processor  # noqa: PLC0415 - only to redirect them

    for module in (kernel, memory, processor, mounts, procfs):
        monkeypatch.setattr(module, "PROC", tmp_path)
    return tmp_path


def test_processors_keep_their_own_numbers_when_one_is_offline(other_proc: Path) -> None:
    (other_proc / "stat").write_text(
        "cpu  9 9 9 9 9 9 9 9 9 9\n"
        "cpu0 100 0 50 1000 3 0 2 1 4 0\ncpu2 200 0 50 1000 3 0 2 1 0 0\nintr 7 1 2\nbtime 5\n"
    )
    samples = {sample.series: sample.value for sample in host_parts()["stat"]()}
    users = {dict(key.labels)["cpu"]: value for key, value in samples.items() if ("mode", "user") in key.labels}
    ticks_per_second = os.sysconf("SC_CLK_TCK")
    assert users == {"0": 100 / ticks_per_second, "2": 200 / ticks_per_second}
    assert sum(key.kind is Kind.COUNTER for key in samples) == 17


def test_a_kernel_without_these_files_gives_less_and_fails_nowhere(other_proc: Path) -> None:
    assert list(other_proc.iterdir()) == []
    collected = collect(HostCollector())
    metrics = {key.metric for key in collected.batches[0].keys}
    assert collected.rejected == {}
    assert {"node_cpu_seconds_total", "node_memory_MemTotal_bytes", "node_load1", "node_boot_time_seconds"} <= metrics
    assert not any(metric.startswith(("node_pressure_", "node_filefd_", "node_vmstat_")) for metric in metrics)


def test_mount_points_are_unescaped_filtered_and_listed_once(other_proc: Path) -> None:
    (other_proc / "self").mkdir()
    (other_proc / "self/mounts").write_bytes(
        b"/dev/root / ext4 rw,relatime 0 0\nproc /proc proc rw 0 0\ntmpfs /dev/shm tmpfs rw 0 0\n"
        b"/dev/sdb1 /mnt/a\\040b\\011c xfs ro,noatime 0 0\nserver:/x /net nfs4 rw 0 0\n"
        b"/dev/sdc /mnt/\\134\xff vfat rw 0 0\n/dev/root / ext4 rw,relatime 0 0\noverlay / overlay rw 0 0\n"
    )
    found = list(read_mounts())
    assert found == [
        Mount("/dev/root", "/", "ext4", b"/", is_read_only=False),
        Mount("/dev/sdb1", "/mnt/a b\tc", "xfs", b"/mnt/a b\tc", is_read_only=True),
        Mount("server:/x", "/net", "nfs4", b"/net", is_read_only=False),
        Mount("/dev/sdc", "/mnt/\\\ufffd", "vfat", b"/mnt/\\\xff", is_read_only=False),
    ]
    assert [mount.is_local for mount in found] == [True, True, False, True]


def test_a_file_system_that_never_answers_holds_up_one_collection_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    released, asked = threading.Event(), []
    local = Mount("/dev/sda", "/", "ext4", b"/", is_read_only=False)
    remote = Mount("server:/x", "/net", "nfs4", b"/net", is_read_only=False)

    def answer_late(path: bytes) -> os.statvfs_result:
        if path == remote.path:
            asked.append(path)
            released.wait(10)
        return real_status("/")

    real_status = os.statvfs
    monkeypatch.setattr(filesystem, "read_mounts", lambda: iter([local, remote]))
    monkeypatch.setattr(filesystem.os, "statvfs", answer_late)
    file_systems = FileSystems()

    def device_errors() -> dict[str, float]:
        samples = [s for s in file_systems.read() if s.series.metric == "node_filesystem_device_error"]
        return {dict(sample.series.labels)["mountpoint"]: sample.value for sample in samples}

    assert device_errors() == {"/": 0, "/net": 1}
    assert device_errors() == {"/": 0, "/net": 1}
    assert len(asked) == 1
    released.set()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while device_errors()["/net"] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert device_errors() == {"/": 0, "/net": 0}


def test_a_file_system_that_refuses_has_a_device_error_and_no_size(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = Mount("/dev/sdz", "/no/such", "ext4", b"/no/such", is_read_only=False)
    monkeypatch.setattr(filesystem, "read_mounts", lambda: iter([gone]))
    (sample,) = FileSystems().read()
    assert (sample.series.metric, sample.value) == ("node_filesystem_device_error", 1)


def test_processes_that_read_in_turn_share_the_floor_through_a_file(tmp_path: Path, other_proc: Path) -> None:
    first, second = (host_parts(tmp_path / "floor")["stat"] for _ in range(2))

    def waited(read: object, ticks: int) -> float:
        (other_proc / "stat").write_text(f"cpu0 1 0 1 1000 {ticks} 0 0 0\nbtime 5\n")
        assert callable(read)
        return next(sample.value for sample in read() if ("mode", "iowait") in sample.series.labels)

    seconds = 1 / os.sysconf("SC_CLK_TCK")
    assert [waited(first, 50), waited(second, 40), waited(first, 51)] == pytest.approx(
        [50 * seconds, 50 * seconds, 51 * seconds]
    )
    (tmp_path / "floor").write_text("garbage after a crash")
    assert waited(second, 30) == pytest.approx(30 * seconds)


def test_a_floor_that_cannot_be_shared_costs_no_sample(tmp_path: Path) -> None:
    collected = collect(HostCollector(floor_path=tmp_path / "no/such/folder/floor"))
    assert collected.rejected == {}
    assert any(key.metric == "node_cpu_seconds_total" for key in collected.batches[0].keys)


def test_a_collection_costs_a_few_milliseconds_of_a_processor() -> None:
    collector = HostCollector()
    collect(collector)
    started = time.thread_time()
    for _ in range(20):
        collect(collector)
    assert (time.thread_time() - started) / 20 < 0.02  # 2 ms measured; a machine that is busy or slow takes more
