"""Many scrape targets in one cheap process: what the load benchmark scrapes.

    python benchmarks/exposition_server.py --targets 100 --series 1000

listens on a free port of 127.0.0.1 per target and prints their URLs, as one JSON list, once all of them answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle, islice
from typing import Literal

import numpy as np
import numpy.typing as npt

Movement = Literal["rising", "moving", "constant"]

_MODES = ("user", "system", "idle", "iowait", "irq", "softirq", "nice", "steal")
_STATES = ("active", "activating", "deactivating", "failed", "inactive")
#: Idle devices have counters too: one in so many stands still.
_STILL_EVERY = 8
_SWING_SECONDS = 300.0


@dataclass(frozen=True)
class Family:
    """One metric of a target: `share` is its part of all series, in thousandths."""

    metric: str
    type: Literal["counter", "gauge"]
    movement: Movement
    share: int
    labels: str
    number: str = "%.0f"

    def series(self, count: int) -> Iterator[str]:
        """The lines of `count` series; a series that changes has a place for its number."""
        for index in range(count):
            names = {
                "index": index,
                "mode": _MODES[index % len(_MODES)],
                "state": _STATES[index % len(_STATES)],
                "group": index // len(_MODES),
                "unit": index // len(_STATES),
            }
            value = str(index % 2) if self.movement == "constant" else self.number
            yield f"{self.metric}{{{self.labels.format(**names)}}} {value}\n"


#: Two fifths counters, a quarter moving gauges, a third gauges that hardly ever change: as node_exporter's are.
FAMILIES = (
    Family("node_cpu_seconds_total", "counter", "rising", 130, 'cpu="{group}",mode="{mode}"', "%.2f"),
    Family("node_disk_io_time_seconds_total", "counter", "rising", 70, 'device="nvme{index}n1"', "%.3f"),
    Family("node_network_receive_bytes_total", "counter", "rising", 100, 'device="eth{index}"'),
    Family("node_network_transmit_bytes_total", "counter", "rising", 100, 'device="eth{index}"'),
    Family(
        "node_filesystem_avail_bytes",
        "gauge",
        "moving",
        100,
        'device="/dev/mapper/vg-{index}",fstype="ext4",mountpoint="/srv/{index}"',
    ),
    Family(
        "node_hwmon_temp_celsius", "gauge", "moving", 100, 'chip="platform_coretemp_0",sensor="temp{index}"', "%.1f"
    ),
    Family("node_schedstat_waiting_tasks", "gauge", "moving", 50, 'cpu="{index}"'),
    Family(
        "node_filesystem_size_bytes",
        "gauge",
        "constant",
        100,
        'device="/dev/mapper/vg-{index}",fstype="ext4",mountpoint="/srv/{index}"',
    ),
    Family(
        "node_systemd_unit_state", "gauge", "constant", 250, 'name="unit{unit}.service",state="{state}",type="simple"'
    ),
)


def template(series: int) -> tuple[str, list[Movement]]:
    """A body of `series` series with a place for each number that changes, and how each of those changes."""
    parts: list[str] = []
    movements: list[Movement] = []
    left = series
    for family in FAMILIES:
        # The last family takes what rounding has left over.
        count = left if family is FAMILIES[-1] else min(left, round(series * family.share / 1_000))
        left -= count
        parts += [f"# HELP {family.metric} A metric of the benchmark.\n", f"# TYPE {family.metric} {family.type}\n"]
        parts += family.series(count)
        if family.movement != "constant":
            movements += [family.movement] * count
    return "".join(parts), movements


@dataclass(frozen=True)
class Exposed:
    """What one target exposes at any time: a number is base + rate * t, or base * (1 + sin(t) / 10)."""

    template: str
    base: npt.NDArray[np.float64]
    rate: npt.NDArray[np.float64]
    swing: npt.NDArray[np.float64]

    @classmethod
    def of(cls, body: str, movements: list[Movement], *, seed: int) -> Exposed:
        """Numbers of its own for each target."""
        random = np.random.default_rng(seed)
        is_rising = np.array([movement == "rising" for movement in movements])
        base = random.uniform(1e3, 1e9, len(movements))
        is_still = np.fromiter(islice(cycle(range(_STILL_EVERY)), len(movements)), dtype=np.int64) == 0
        rate = np.where(is_rising & ~is_still, random.uniform(0.1, 1e5, len(movements)), 0.0)
        return cls(body, base, rate, np.where(is_rising, 0.0, base / 10))

    def body(self, seconds: float) -> bytes:
        """The exposition text at `seconds` after the start."""
        numbers = self.base + self.rate * seconds + self.swing * np.sin(seconds / _SWING_SECONDS + self.base)
        return (self.template % tuple(numbers.tolist())).encode()


@dataclass
class Exchange(asyncio.Protocol):
    """One connection: any request gets the target's body, then the connection ends."""

    exposed: Exposed
    started: float
    received: bytes = b""
    transport: asyncio.Transport | None = field(default=None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what to answer on."""
        if isinstance(transport, asyncio.Transport):
            self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer when the request has ended."""
        self.received += data
        if self.transport is not None and self.received.endswith(b"\r\n\r\n"):
            body = self.exposed.body(time.monotonic() - self.started)
            head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nConnection: close\r\n"
            self.transport.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            self.transport.close()


async def serve(*, targets: int, series: int) -> None:
    """Serve until cancelled."""
    loop = asyncio.get_running_loop()
    body, movements = template(series)
    started = time.monotonic()
    urls = []
    for seed in range(targets):
        exposed = Exposed.of(body, movements, seed=seed)
        server = await loop.create_server(partial(Exchange, exposed, started), "127.0.0.1", 0)
        urls.append(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/metrics")
    print(json.dumps(urls), flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--targets", type=int, default=100)
    parser.add_argument("--series", type=int, default=1_000, help="of each target")
    arguments = parser.parse_args()
    asyncio.run(serve(targets=arguments.targets, series=arguments.series))


if __name__ == "__main__":
    main()
