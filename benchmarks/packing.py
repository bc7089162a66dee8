"""The packing benchmark: what sealed rows (docs/adr/0017-sealed-rows.md) take.

    python benchmarks/packing.py [--recordings DIRECTORY] [--binaries DIRECTORY] [--span 240]

Packs random walks, and what `recorded.py` has recorded; in a server of its own, the embedded one or that of another
directory of binaries. Everything lives in a temporary directory.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from bench_installation import temporary_home
from figures import Connection, connected, value
from packed_data import Kind, gauges, kinds
from packed_rows import differing_elements, pack_all, sample_rows, sealed_rows, spans, store, store_samples
from packed_tables import Storage, total_bytes

from aggregator.embedded.postgres import EmbeddedPostgres
from aggregator.embedded.wheels import postgres_binaries
from aggregator.rollups.packed import Form, Packed, unpack

#: So many targets of the kind are stored, so that half-empty last pages weigh little.
_TARGETS = 8
_SAMPLES_SPAN = 960
_ROUNDS_OF_PACKING = 5
_TABLES = ("sealed", "clock")


@contextmanager
def server(binaries: Path) -> Iterator[Connection]:
    """A PostgreSQL with nothing in it."""
    with (
        temporary_home("aggregator-packing-") as home,
        EmbeddedPostgres(home / "postgres", binaries=binaries, port=None, fsync=False) as running,
        connected(running.url) as connection,
    ):
        yield connection


def storages(connection: Connection) -> list[Storage]:
    """The compressions that the server has."""
    known = value(connection, "SELECT enumvals FROM pg_settings WHERE name = 'default_toast_compression'")
    return [Storage(compression=name) for name in known]


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds, the median of some rounds."""
    found = []
    for _ in range(_ROUNDS_OF_PACKING):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    return statistics.median(found)


def report_kind(connection: Connection, kind: Kind, *, span: int) -> None:
    """Print what one kind of data takes, how fast it is packed, and whether SQL reads the same bits."""
    first = next(iter(spans(kind.rollups, span)))[1]
    rollups, samples = int((kind.rollups.count > 0).sum()), int((~np.isnan(kind.recording.values)).sum())
    packed = pack_all(first)
    constant = np.mean([np.isin(_forms(one), (Form.NOTHING, Form.CONSTANT)) for one in packed.values()], axis=0) == 1
    rate = int((first.count > 0).sum()) / seconds(lambda: pack_all(first))
    unpacking = int((first.count > 0).sum()) / seconds(lambda: [unpack(one) for one in packed.values()])
    print(
        f"\n{kind.name}: {len(constant)} series, {gauges(kind.rollups).mean():.0%} gauges,"
        f" {constant.mean():.0%} constant; {rate / 1e6:.2f} million rollups packed a second,"
        f" {unpacking / 1e6:.1f} unpacked"
    )
    own = sealed_rows(kind.rollups, span=span)
    sampled = sample_rows(kind.recording, span=_SAMPLES_SPAN)
    for storage in storages(connection):
        store(connection, own.repeated(_TARGETS), name="rollups", storage=storage)
        store_samples(connection, sampled.repeated(_TARGETS), name="samples", storage=storage)
        of_rollups = [total_bytes(connection, f"{name}_rollups") / _TARGETS / rollups for name in _TABLES]
        of_samples = [total_bytes(connection, f"{name}_samples") / _TARGETS / samples for name in _TABLES]
        print(
            f"  {storage.compression}: a rollup {sum(of_rollups):.2f} B (clocks {of_rollups[1]:.2f}),"
            f" a sample {sum(of_samples):.2f} B (clocks {of_samples[1]:.2f})"
        )
    different, read = differing_elements(connection, kind.rollups)
    print(f"  {read:,} numbers read back by SQL, {different} with other bits")


def _forms(packed: Packed) -> npt.NDArray[np.int64]:
    """The form of each series."""
    forms = np.zeros(packed.series, dtype=np.int64)
    for part in packed.parts:
        forms[part.lines] = part.form
    return forms


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--recordings", type=Path, help="where recorded.py has put its files")
    parser.add_argument("--binaries", type=Path, help="the directory of another PostgreSQL's binaries")
    parser.add_argument("--span", type=int, default=240, help="buckets in a sealed row")
    arguments = parser.parse_args()
    with server(arguments.binaries or postgres_binaries()) as connection:
        version = value(connection, "SHOW server_version")
        print(f"load average {os.getloadavg()[0]:.1f}; PostgreSQL {version}; {arguments.span} buckets in a row")
        for kind in kinds(arguments.recordings):
            report_kind(connection, kind, span=arguments.span)


if __name__ == "__main__":
    main()
