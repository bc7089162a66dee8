"""A proxy before PostgreSQL that loses the connection at chosen COMMITs: before they arrive, or with their answer."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from urllib.parse import urlsplit

_COMMIT = b"COMMIT\0"
_READY_FOR_QUERY = b"Z\0\0\0\x05I"
_CHUNK_BYTES = 65_536


class Loss(Enum):
    """What becomes of a COMMIT whose connection is lost; the client cannot tell one from the other."""

    NEVER_DONE = "never done"
    DONE = "done"


@dataclass
class LosingProxy:
    """Which COMMITs are lost, counted from 0 since the last `expect`."""

    url: str
    _losses: dict[int, Loss] = field(default_factory=dict)
    _commits: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def expect(self, losses: dict[int, Loss]) -> None:
        """Lose these COMMITs from now on."""
        with self._lock:
            self._losses, self._commits = losses, 0

    def next_commit(self) -> Loss | None:
        """Count one more COMMIT; gives how it is to be lost."""
        with self._lock:
            loss = self._losses.get(self._commits)
            self._commits += 1
            return loss


@contextmanager
def losing_proxy(url: str) -> Iterator[LosingProxy]:
    """A proxy on a port of its own for the server of a URL."""
    there = urlsplit(url)
    address = there.hostname or "", there.port or 0
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        netloc = f"{there.username}:{there.password}@127.0.0.1:{port}"
        proxy = LosingProxy(there._replace(netloc=netloc).geturl())
        threading.Thread(target=_accept, args=(listening, address, proxy), daemon=True).start()
        yield proxy


def _accept(listening: socket.socket, address: tuple[str, int], proxy: LosingProxy) -> None:
    with contextlib.suppress(OSError):  # the test is over
        while True:
            client, _ = listening.accept()
            threading.Thread(target=_relay, args=(client, address, proxy), daemon=True).start()


def _relay(client: socket.socket, address: tuple[str, int], proxy: LosingProxy) -> None:
    """Hand on what both sides say, until one of them leaves or a COMMIT is lost; then neither hears any more."""
    with contextlib.suppress(OSError), client, socket.create_connection(address) as server:
        while True:
            readable, _, _ = select.select([client, server], [], [])
            if server in readable:
                if not (said := server.recv(_CHUNK_BYTES)):
                    return
                client.sendall(said)
            elif not (said := client.recv(_CHUNK_BYTES)):
                return
            elif said.endswith(_COMMIT) and (loss := proxy.next_commit()) is not None:
                if loss is Loss.DONE:
                    server.sendall(said)
                    _await_end_of_answer(server)
                return
            else:
                server.sendall(said)


def _await_end_of_answer(server: socket.socket) -> None:
    """Read until the server is ready for the next query: what it was asked has been done."""
    answer = b""
    while not answer.endswith(_READY_FOR_QUERY) and (said := server.recv(_CHUNK_BYTES)):
        answer += said
