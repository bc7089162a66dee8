"""Collectors: from a source to samples, one file per kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from aggregator.collectors.protocol import Collector
from aggregator.config.source_model import PrometheusSource


def make_collectors(
    data_dir: Path, *, may_read: Callable[[PrometheusSource], bool] = lambda _: True
) -> dict[str, Collector]:
    """A collector for each kind of source; each remembers what it has read, so a process makes them once.

    `data_dir` exists; what the processes of a machine must agree on is kept there. `may_read` says of a source whether
    this node may read the files that it names.
    """
    from aggregator.collectors.command import CommandCollector  # noqa: PLC0415 - the protocol is needed without them
    from aggregator.collectors.host import HostCollector  # noqa: PLC0415 - as above
    from aggregator.collectors.prometheus import PrometheusCollector  # noqa: PLC0415 - as above
    from aggregator.collectors.selftest import SelftestCollector  # noqa: PLC0415 - as above

    return {
        "prometheus": PrometheusCollector(may_read=may_read),
        "host": HostCollector(floor_path=data_dir / "host-cpu.floor"),
        "command": CommandCollector(),
        "selftest": SelftestCollector(),
    }
