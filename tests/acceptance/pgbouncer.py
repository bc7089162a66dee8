"""A PgBouncer of a test's own, in transaction mode, before one PostgreSQL: few sessions, shared by many clients."""

from __future__ import annotations

import signal
import socket
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

from aggregator.embedded.account import server_account, user_name
from aggregator.embedded.ports import free_port
from aggregator.embedded.process import end_process, start_process, wait_until
from tests.acceptance.machines import PATIENCE

#: Fewer than there are clients, so that a session has another client's transaction before and after each.
SESSIONS = 3


class PgBouncer:
    """One pooler below `home`, which the account that it runs as must be able to enter."""

    def __init__(self, home: Path, *, binary: str, database_url: str) -> None:
        self._home, self._binary = home, binary
        self._to = urlsplit(database_url)
        self._port = free_port()

    @property
    def url(self) -> str:
        """The database behind it, through it."""
        return self._to._replace(netloc=f"{self._to.username}:{self._to.password}@127.0.0.1:{self._port}").geturl()

    def __enter__(self) -> Self:
        account = server_account()
        self._home.mkdir()
        configuration = self._home / "pgbouncer.ini"
        user = f"user = {user_name(account.user_id)}\n" if account.is_other else ""
        password = unquote(self._to.password or "")
        configuration.write_text(
            "[databases]\n"
            f"* = host=127.0.0.1 port={self._to.port} user={self._to.username} password={password}\n"
            "[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {self._port}\nunix_socket_dir =\n{user}"
            f"auth_type = any\npool_mode = transaction\ndefault_pool_size = {SESSIONS}\nmax_client_conn = 100\n"
        )
        account.own(configuration)
        account.own(self._home)
        self.log = self._home / "output.log"
        with self.log.open("ab") as output:
            self._process = start_process(
                [self._binary, str(configuration)],
                output=output,
                environment={"PATH": "/usr/bin:/bin"},
                parent_death_signal=signal.SIGKILL,
            )
        is_decided = wait_until(lambda: self._process.poll() is not None or self._answers(), PATIENCE)
        assert is_decided and self._process.poll() is None, self.log.read_text()  # noqa: PT018 - which of both, the log says
        return self

    def __exit__(self, *_: object) -> None:
        end_process(self._process, (signal.SIGINT, timedelta(seconds=5)))

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=1):
            return True
        return False
