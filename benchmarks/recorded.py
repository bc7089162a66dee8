"""Scrapes of real exporters, one a second, kept in files: what `sealing.py` stores.

    python benchmarks/recorded.py --directory DIRECTORY [--seconds 1500] [--target NAME=URL ...]

Recorded are a node exporter of this machine, this service's own exporter and a Prometheus that scrapes both; or the
targets that are named. A second stands for a slot of 15: numbers move less from slot to slot than they would.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
from bench_installation import environment, process, temporary_home

from aggregator.config.source_model import Limits
from aggregator.embedded.ports import LOOPBACK, free_port
from aggregator.embedded.process import end_process, start_process
from aggregator.exposition.exposed import ExposedSeries
from aggregator.exposition.parser import TargetParser
from aggregator.exposition.series import Kind

_STOP_STEP = (signal.SIGTERM, timedelta(seconds=10))
_TIMEOUT_SECONDS = 5.0
_SAVED_EVERY_SECONDS = 60


@dataclass(frozen=True)
class Recording:
    """What a target exposed: `values` of shape (slots, series), NaN where a slot lacks a series.

    `delay_ms`: how long after its slot each scrape was made, int64 of shape (slots,). `is_counter`: shape (series,).
    """

    values: npt.NDArray[np.float64]
    delay_ms: npt.NDArray[np.int64]
    is_counter: npt.NDArray[np.bool_]

    @classmethod
    def load(cls, path: Path) -> Recording:
        """What `save` wrote."""
        with np.load(path) as arrays:
            return cls(arrays["values"], arrays["delay_ms"], arrays["is_counter"])

    def save(self, path: Path) -> None:
        """Keep it in a file."""
        np.savez(path, values=self.values, delay_ms=self.delay_ms, is_counter=self.is_counter)


@dataclass
class _Target:
    """A target while it is recorded."""

    url: str
    parser: TargetParser = field(default_factory=lambda: TargetParser(Limits()))
    places: dict[ExposedSeries, int] = field(default_factory=dict)
    slots: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]] = field(default_factory=list)
    delay_ms: list[int] = field(default_factory=list)

    def scrape(self, slot: float) -> None:
        """One scrape; a failed one is an empty slot."""
        self.delay_ms.append(round(1_000 * (time.time() - slot)))
        try:
            with urllib.request.urlopen(self.url, timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310 - one of ours
                exposed = self.parser.parse(answer.read(), answer.headers["Content-Type"])
        except OSError:
            self.slots.append((np.zeros(0, dtype=np.int64), np.zeros(0)))
            return
        places = [self.places.setdefault(series, len(self.places)) for series in exposed.series]
        self.slots.append((np.array(places), exposed.values))

    def recording(self) -> Recording:
        """All that came."""
        values = np.full((len(self.slots), len(self.places)), np.nan)
        for slot, (places, found) in enumerate(self.slots):
            values[slot, places] = found
        is_counter = np.array([series.kind is Kind.COUNTER for series in self.places])
        return Recording(values, np.array(self.delay_ms), is_counter)


@contextmanager
def exporters(home: Path) -> Iterator[Mapping[str, str]]:
    """The URLs of the exporters that are installed, by name; all run until leaving."""
    urls: dict[str, str] = {}
    with ExitStack() as stack:
        if (binary := shutil.which("prometheus-node-exporter")) is not None:
            address = f"{LOOPBACK}:{free_port()}"
            stack.enter_context(_running(home, "node", [binary, f"--web.listen-address={address}"]))
            urls["node exporter"] = f"http://{address}/metrics"
        variables = environment(home, AGGREGATOR_POSTGRES_PORT=str(free_port()))
        stack.enter_context(process("up", ("-m", "aggregator", "up"), home=home, variables=variables))
        urls["aggregator"] = f"http://{variables['AGGREGATOR_EXPORTER_LISTEN']}/metrics"
        if (binary := shutil.which("prometheus")) is not None:
            address = f"{LOOPBACK}:{free_port()}"
            urls["prometheus"] = f"http://{address}/metrics"
            arguments = _prometheus_arguments(home, address, [url.split("/")[2] for url in urls.values()])
            stack.enter_context(_running(home, "prometheus", [binary, *arguments]))
        yield urls


def _prometheus_arguments(home: Path, address: str, targets: list[str]) -> list[str]:
    listed = ", ".join(f'"{target}"' for target in targets)
    config = home / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"
        f"scrape_configs: [{{job_name: all, static_configs: [{{targets: [{listed}]}}]}}]\n"
    )
    return [
        f"--config.file={config}",
        f"--storage.tsdb.path={home / 'tsdb'}",
        f"--web.listen-address={address}",
    ]


@contextmanager
def _running(home: Path, name: str, argv: list[str]) -> Iterator[None]:
    with (home / f"{name}.log").open("wb") as log:
        started = start_process(argv, output=log, environment={"HOME": str(home)}, parent_death_signal=signal.SIGTERM)
        try:
            yield
        finally:
            end_process(started, _STOP_STEP)


def record(directory: Path, named: Mapping[str, str], *, seconds: int) -> None:
    """Scrape the named targets, or else every exporter, once a second; what there is by then is saved every minute."""
    directory.mkdir(parents=True, exist_ok=True)
    with temporary_home("aggregator-recorded-") as home, nullcontext(named) if named else exporters(home) as urls:
        targets = {name: _Target(url) for name, url in urls.items()}
        began = time.time() + 15  # until all of them listen
        for second in range(seconds):
            time.sleep(max(0.0, began + second - time.time()))
            for target in targets.values():
                target.scrape(began + second)
            if (second + 1) % _SAVED_EVERY_SECONDS == 0 or second == seconds - 1:
                for name, target in targets.items():
                    target.recording().save(directory / f"{name}.npz")


def main() -> None:
    """Read the command line and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--directory", type=Path, required=True, help="where the recordings are kept")
    parser.add_argument("--seconds", type=int, default=1_500, help="how many scrapes")
    parser.add_argument("--target", action="append", default=[], help="a target to record, as NAME=URL")
    arguments = parser.parse_args()
    record(arguments.directory, dict(one.split("=", 1) for one in arguments.target), seconds=arguments.seconds)


if __name__ == "__main__":
    main()
