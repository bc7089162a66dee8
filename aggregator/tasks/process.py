"""What happens when a worker starts, when its children start, and every few seconds while it lives."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import subprocess
import sys
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import structlog
from billiard import current_process
from billiard.util import get_logger as get_pool_logger
from celery import Celery, bootsteps, signals
from celery.utils.nodenames import default_nodename
from kombu.exceptions import OperationalError

from aggregator import __version__, telemetry
from aggregator.config.load import load_settings
from aggregator.config.model import Settings
from aggregator.config.servers import with_running_servers
from aggregator.errors import AggregatorError, SchemaOutdatedError
from aggregator.logs import configure_logging
from aggregator.tasks import progress
from aggregator.tasks.app import app
from aggregator.tasks.banners import is_seen
from aggregator.tasks.inherited import close_inherited_sockets

log = structlog.get_logger(__name__)

#: How often a worker says that it lives: through its broker, one of its children, and the database.
ANNOUNCE_SECONDS = 15.0
#: They say of every message that it was sent, received, expired and done: a hundred thousand lines a day.
_CHATTY = ("celery.beat", "celery.worker.strategy", "celery.worker.request", "multiprocessing")


@signals.setup_logging.connect(weak=False)
def _set_up_logging(**_: Any) -> None:  # noqa: ANN401 - Celery's signal sends anything
    """Log as everything else of ours does, instead of Celery's own format."""
    settings = load_settings()
    configure_logging(settings.log_level, settings.log_format)
    get_pool_logger().propagate = True  # lines about the children: without it they go to stderr as they are
    logging.captureWarnings(capture=True)
    if settings.log_level != "debug":
        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)
        logging.getLogger("celery.app.trace").setLevel(logging.CRITICAL)  # our `task_failed` says the same, in one line


@signals.worker_init.connect(weak=False)
def _load_work(**_: Any) -> None:  # noqa: ANN401 - as above
    """Before the pool forks: what all children need is loaded once and shared."""
    telemetry.forget_gauges(metrics_directory(load_settings()))
    progress.share()
    import_module("aggregator.tasks.work")
    for collector in ("command", "host", "prometheus", "selftest"):
        import_module(f"aggregator.collectors.{collector}")
    # The collector of garbage touches every object, which would copy the memory that the children share.
    gc.collect()
    gc.freeze()


@signals.worker_init.connect(weak=False)
def _leave_earlier_schema_alone(**_: Any) -> None:  # noqa: ANN401 - as above
    """End where the schema is of an earlier version: a worker that can do nothing would take others' messages.

    Its supervisor tries again. Where the database cannot be asked, the tasks ask when it is back. A process of its own
    asks: the pool's parent opens no connection and starts no thread (docs/pitfalls.md#prefork).
    """
    asking = multiprocessing.get_context("fork").Process(target=_look_at_schema)
    asking.start()
    asking.join()
    if asking.exitcode == SchemaOutdatedError.exit_code:
        raise SystemExit(SchemaOutdatedError.exit_code)


def _look_at_schema() -> None:
    context = import_module("aggregator.tasks.context")
    try:
        context.Context(with_running_servers(load_settings())).database.dispose()
    except SchemaOutdatedError as error:
        raise SystemExit(error.exit_code) from None
    except AggregatorError as error:
        log.warning("schema_not_checked", error=str(error))


@signals.celeryd_init.connect(weak=False)
def _name_worker(instance: Any, **_: Any) -> None:  # noqa: ANN401 - as above
    """Call the worker by its node: two on one machine with the same name would take each other's commands.

    And no banner where it would be a log of twenty lines that are none.
    """
    instance.quiet = instance.quiet or not is_seen()
    if instance.hostname == default_nodename(None):  # a name of the user's own stays
        instance.hostname = f"celery@{load_settings().node}"


@signals.worker_process_init.connect(weak=False)
def _begin_child(**_: Any) -> None:  # noqa: ANN401 - as above
    """In a child, right after its fork: nothing of the parent's is used, and metrics go to this child's files.

    Quick, and without a connection: it must not keep the pool waiting.
    """
    close_inherited_sockets()
    import_module("aggregator.tasks.context").forget_context()
    settings = load_settings()
    telemetry.install(metrics_directory(settings), _child_index)
    telemetry.put("build_info", 1, version=__version__)
    # A counter that is born at its first failure shows no increase: what begins at 0 does (docs/pitfalls.md#born-at-1).
    for name in app.tasks:
        if name.startswith("aggregator."):
            for outcome in ("ok", "failed"):
                telemetry.count("task_runs_total", 0, task=name.removeprefix("aggregator."), outcome=outcome)


def _child_index() -> int:
    """A child's place in the pool: its successor has the same one (docs/pitfalls.md#metric-files)."""
    return int(current_process().index)


def metrics_directory(settings: Settings) -> Path:
    """Where this node's processes keep their metrics: a folder per node, for two may share a data directory."""
    return settings.data_dir / "metrics" / settings.node


class Exporter(bootsteps.StartStopStep):
    """The small process beside a worker that serves what the worker's children did."""

    requires = ("celery.worker.components:Timer", "celery.worker.components:Pool")

    def __init__(self, worker: Any, **_: Any) -> None:  # noqa: ANN401 - as above
        self.process: subprocess.Popen[bytes] | None = None
        super().__init__(worker)

    def start(self, worker: Any) -> None:  # noqa: ANN401 - as above
        """Start it, and look after it."""
        self._start()
        worker.timer.call_repeatedly(ANNOUNCE_SECONDS, self._start_again)

    def _start(self) -> None:
        settings = load_settings()
        # A process of its own and no thread: the parent must stay free to fork.
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "aggregator.serving.exporter",
                f"--listen={settings.exporter_listen}",
                f"--directory={metrics_directory(settings)}",
                f"--parent={os.getpid()}",
            ],
            stdin=subprocess.DEVNULL,
        )

    def _start_again(self) -> None:
        """Start the exporter anew where it has died."""
        if self.process is not None and self.process.poll() is not None:
            log.warning("exporter_ended", code=self.process.returncode)
            self._start()

    def stop(self, worker: Any) -> None:  # noqa: ANN401, ARG002 - as above
        """Stop it with the worker."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=5)
        self.process = None  # the timer goes on while the pool ends: it must not be started again

    terminate = stop


class Announcer(bootsteps.StartStopStep):
    """Says every few seconds that this node lives: a message to its own queue, which one of its children reads."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **_: Any) -> None:  # noqa: ANN401 - as above
        self.timer: Any = None
        self.started_at = datetime.now(UTC).isoformat()
        super().__init__(consumer)

    def start(self, consumer: Any) -> None:  # noqa: ANN401 - as above
        """Announce at once, and again and again."""
        self._announce()
        self.timer = consumer.timer.call_repeatedly(ANNOUNCE_SECONDS, self._announce)

    def stop(self, consumer: Any) -> None:  # noqa: ANN401, ARG002 - as above
        """Say nothing any more: the connection is going."""
        if self.timer is not None:
            self.timer.cancel()

    def _announce(self) -> None:
        try:
            app.send_task(
                "aggregator.announce",
                kwargs={"started_at": self.started_at},
                expires=ANNOUNCE_SECONDS,
                ignore_result=True,
                # At once and once more: a child that was forked since has closed the connection to RabbitMQ.
                retry_policy={"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0},
            )
        except OperationalError as error:
            log.warning("announce_failed", error=str(error))


def add_steps(celery: Celery) -> None:
    """Make exporter and announcer part of every worker of this app."""
    celery.steps["worker"].add(Exporter)
    celery.steps["consumer"].add(Announcer)


add_steps(app)
