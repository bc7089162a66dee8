"""A RabbitMQ node of a test's own: its own name, ports, cookie and directories, beside any that runs here."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from datetime import timedelta
from pathlib import Path
from typing import Self
from urllib.parse import quote

from kombu import Connection

from aggregator.embedded.ports import free_port
from aggregator.embedded.process import end_process, start_process, wait_until
from tests.acceptance.machines import PATIENCE

#: Debian's wrapper in /usr/sbin changes the user and the directory; the one below /usr/lib does as it is told.
_PLACES = "/usr/lib/rabbitmq/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin"
# One scheduler is enough, and busy waiting would take the processor from the tests; loopback only.
_ERLANG = "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}"
_STOP_STEP = (signal.SIGTERM, timedelta(seconds=30))


def rabbitmq_binary() -> Path | None:
    """The server's start script, if RabbitMQ and Erlang's port mapper are installed."""
    found = shutil.which("rabbitmq-server", path=f"{_PLACES}:{os.environ.get('PATH', '')}")
    return Path(found) if found and shutil.which("epmd") else None


class RabbitMQ:
    """One node below `home`, on loopback."""

    def __init__(self, home: Path, *, binary: Path) -> None:
        self._home = home
        self._binary = binary
        self._port, self._distribution_port, self._mapper_port = free_port(), free_port(), free_port()

    @property
    def url(self) -> str:
        """As Celery reads it."""
        return f"pyamqp://guest:guest@127.0.0.1:{self._port}/{quote('/', safe='')}"

    def __enter__(self) -> Self:
        self._home.mkdir(parents=True, exist_ok=True)
        (self._home / "plugins").write_text("[].\n")
        (self._home / "rabbitmq.conf").write_text("log.console = false\ncluster_name = test\n")
        with (self._home / "output.log").open("ab") as output:
            # Otherwise the node starts a port mapper that outlives it.
            mapper = shutil.which("epmd") or "epmd"
            self._mapper = start_process(
                [mapper], output=output, environment=self._environment(), parent_death_signal=signal.SIGKILL
            )
            self._process = start_process(
                [str(self._binary)], output=output, environment=self._environment(), parent_death_signal=signal.SIGTERM
            )
        is_decided = wait_until(lambda: self._process.poll() is not None or self._answers(), PATIENCE)
        if not is_decided or self._process.poll() is not None:
            said = (self._home / "output.log").read_text(errors="replace")
            self.__exit__()
            raise AssertionError(f"RabbitMQ did not start: {said[-2_000:]}")
        return self

    def __exit__(self, *_: object) -> None:
        end_process(self._process, _STOP_STEP)
        end_process(self._mapper)

    def kill(self) -> None:
        """SIGKILL to the node and its port mapper."""
        end_process(self._process)
        end_process(self._mapper)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), Connection(self.url, connect_timeout=5) as connection:
            connection.connect()
            return True
        return False

    def _environment(self) -> dict[str, str]:
        return {
            "HOME": str(self._home),
            "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL": "C.UTF-8",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._mapper_port),
            "RUNNING_UNDER_SYSTEMD": "1",  # the script becomes the node, instead of watching over it
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(self._home / "rabbitmq.conf"),
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._home / "plugins"),
            "RABBITMQ_LOG_BASE": str(self._home / "log"),
            "RABBITMQ_MNESIA_BASE": str(self._home / "mnesia"),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self._port),
            "RABBITMQ_NODENAME": f"aggregator-test-{os.getpid()}@localhost",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": _ERLANG,
        }
