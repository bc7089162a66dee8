"""`aggregator up`: start everything, keep it running, stop everything; nothing outlives it."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aggregator.embedded.directories import PASSABLE, PRIVATE, make_directory
from aggregator.embedded.leftovers import SUPERVISED_VARIABLE, end_supervised
from aggregator.embedded.lock import data_directory_lock
from aggregator.embedded.log_files import LogFiles
from aggregator.embedded.news import News
from aggregator.embedded.ports import listen_address, require_free
from aggregator.embedded.screen import Screen
from aggregator.embedded.screens import make_screen
from aggregator.embedded.servers import Servers, Supervised, postgres_home
from aggregator.embedded.service import STOP_ORDER, Service, own_services
from aggregator.embedded.status_poll import read_status
from aggregator.embedded.stop_signals import StopSignals
from aggregator.errors import AggregatorError, EnvironmentRefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aggregator.config.model import Settings

POLL_SECONDS = 2.0
#: Until the first samples are there, somebody waits for them.
FIRST_POLL_SECONDS = 0.5
LOG_CHECK_SECONDS = 60.0
MIGRATION_NAME = "migrate"


def run_everything(settings: Settings, *, is_verbose: bool) -> None:
    """Run until somebody asks to stop; returns when nothing is left running.

    Raises UsageError where servers are neither configured nor installed, and EnvironmentRefusedError, with the
    remedy, where this machine does not allow it.
    """
    started_at = time.monotonic()
    signals = StopSignals()
    try:
        make_directory(settings.data_dir, mode=PASSABLE if os.geteuid() == 0 else PRIVATE)
        with data_directory_lock(settings.data_dir) as was_left, signals.installed(), make_screen() as screen:
            logs = LogFiles(settings.data_dir / "log")
            run = _Run(settings, Servers(settings, logs), logs, signals, screen, is_verbose, started_at)
            run.everything(was_left=was_left)
    except OSError as error:
        place = error.filename or settings.data_dir
        raise EnvironmentRefusedError(
            f"{place}: {error.strerror}; see that it can be written and has room, or name another place with --data-dir"
        ) from error


@dataclass
class _Run:
    """One run, from start to end."""

    settings: Settings
    servers: Servers
    logs: LogFiles
    signals: StopSignals
    screen: Screen
    is_verbose: bool
    started_at: float
    services: dict[str, Service] = field(default_factory=dict)

    def everything(self, *, was_left: bool) -> None:
        try:
            with contextlib.suppress(KeyboardInterrupt), self.signals.interrupting():
                self._start(was_left=was_left)
            self._watch()
        finally:
            self._stop()

    def _start(self, *, was_left: bool) -> None:
        if was_left:
            end_supervised(self.settings.data_dir)
        for what, listen in (("exporter", "exporter_listen"), ("web", "web_listen")):
            host, port = listen_address(getattr(self.settings, listen))
            require_free(host, port, what=f"the {what}", setting=f"AGGREGATOR_{listen.upper()}")
        self.servers.start()
        self._say_servers()
        self._migrate()
        for service in own_services(self.settings.log_level):
            self.services[service.name] = service
            service.start(self.logs, self._environment)

    def _say_servers(self) -> None:
        brought = " and ".join(one.name for one in self.servers.supervised()) or "none of ours; all URLs are configured"
        self.screen.say(f"servers up after {time.monotonic() - self.started_at:.1f} s: {brought}")
        home = postgres_home(self.settings.data_dir) if self.servers.postgres else self.settings.data_dir
        self.screen.say(f"data: {self.settings.data_dir}   logs: {self.logs.directory}")
        if self.settings.data_dir not in home.parents and self.servers.postgres:
            self.screen.say(f"PostgreSQL cannot run as root, and its user cannot enter that place; its data: {home}")
        if self.servers.postgres:
            self.screen.say(f"PostgreSQL, for Grafana and psql: {self.servers.database_url}")
        self.screen.say(f"page: http://{self.settings.web_listen}/")

    def _migrate(self) -> None:
        migration = Service(MIGRATION_NAME, ("-m", "aggregator", "db", "migrate"), stop_steps=())
        migration.start(self.logs, self._environment)
        try:
            while migration.exit_code() is None:
                self.signals.wait(1.0)
            if migration.exit_code() != 0:
                raise EnvironmentRefusedError(
                    f"the database's schema could not be brought up to date: {self.logs.last_line(MIGRATION_NAME)}"
                )
        finally:
            migration.stop()
        self.screen.say("schema ready")

    def _watch(self) -> None:
        news, supervised, next_log_check = News(self.screen, self.started_at), self.servers.supervised(), 0.0
        host, port = listen_address(self.settings.web_listen)
        while not self.signals.is_stopping:
            self._follow_logs()
            now = time.monotonic()
            for service in self.services.values():
                self._revive_service(service, now)
            for server in supervised:
                self._revive_server(server, now)
            if now >= next_log_check:
                self.logs.limit()
                next_log_check = now + LOG_CHECK_SECONDS
            news.tell(read_status(host, port))
            self.signals.wait(POLL_SECONDS if news.has_samples else FIRST_POLL_SECONDS)

    def _revive_service(self, service: Service, now: float) -> None:
        code = service.exit_code()
        if code is not None:
            service.stop()
            pause = service.backoff.died(now)
            said = self.logs.last_line(service.name)
            self.screen.say(f"{service.name} ended ({_ending(code)}), again in {pause:.0f} s; it said last: {said}")
        elif service.process is None and service.backoff.is_due(now):
            service.start(self.logs, self._environment)

    def _revive_server(self, one: Supervised, now: float) -> None:
        if one.backoff.due_at is None and not one.server.is_alive():
            pause = one.backoff.died(now)
            self.screen.say(f"{one.name} ended, again in {pause:.0f} s; see {self.logs.directory}")
        elif one.backoff.is_due(now):
            self._start_server(one, now)

    def _start_server(self, one: Supervised, now: float) -> None:
        try:
            with self.signals.interrupting():
                one.server.stop()
                one.server.start()
        except KeyboardInterrupt:
            return
        except (AggregatorError, OSError) as error:
            self.screen.say(f"{one.name}: {error}; again in {one.backoff.died(now):.0f} s")
            return
        one.backoff.started(time.monotonic())
        self.screen.say(f"{one.name} is up again")

    def _follow_logs(self) -> None:
        if self.is_verbose:
            for line in self.logs.new_lines():
                sys.stderr.write(line + "\n")

    def _stop(self) -> None:
        if self.services:
            self.screen.say("stopping")
        for name in STOP_ORDER:
            if name in self.services:
                self.services[name].stop(self.signals.is_hurried)
        end_supervised(self.settings.data_dir)
        self.servers.stop()
        self._follow_logs()

    @property
    def _environment(self) -> Mapping[str, str]:
        """What our processes are told: where the data and the servers are, and which file we have read."""
        told = {"AGGREGATOR_DATA_DIR": str(self.settings.data_dir), SUPERVISED_VARIABLE: str(self.settings.data_dir)}
        if self.settings.file:
            told["AGGREGATOR_CONFIG"] = str(self.settings.file.absolute())
        return {**os.environ, **told}


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
