"""A TCP proxy that can go silent: it stops handing on and closes nothing, as a pulled cable or a firewall does."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_CHUNK_BYTES = 65_536
_LOOPBACK = "127.0.0.1"


@dataclass(eq=False)
class _Pair:
    """One connection through the proxy; it hands on while its gate is open."""

    client: socket.socket
    server: socket.socket
    gate: threading.Event = field(default_factory=threading.Event)
    left: int = 2

    def close(self) -> None:
        """End both sides."""
        for one in (self.client, self.server):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self.gate.set()


@dataclass
class SilentProxy:
    """What is before a server. The two sides of a silent connection hear nothing of each other, not even its end."""

    port: int
    address: tuple[str, int]
    _pairs: set[_Pair] = field(default_factory=set)
    _forgotten: set[_Pair] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _is_silent: bool = False

    def before(self, url: str) -> str:
        """The URL of a server, led through this proxy."""
        there = urlsplit(url)
        credentials, _, _ = there.netloc.rpartition("@")
        return there._replace(netloc=f"{credentials}@{_LOOPBACK}:{self.port}".lstrip("@")).geturl()

    def fall_silent(self) -> None:
        """Hand nothing on any more, on the connections that there are and on new ones."""
        with self._lock:
            self._is_silent = True
            for pair in self._pairs:
                pair.gate.clear()

    def speak(self) -> None:
        """Hand on again, what was held first: the cable is plugged in again."""
        with self._lock:
            self._is_silent = False
            for pair in self._pairs:
                pair.gate.set()

    def forget(self) -> None:
        """The connections that there are stay silent for ever; new ones work: a firewall that has forgotten."""
        with self._lock:
            self._is_silent = False
            for pair in self._pairs:
                pair.gate.clear()
            self._forgotten |= self._pairs
            self._pairs = set()

    def close(self) -> None:
        """End all connections, also the forgotten ones."""
        with self._lock:
            pairs = self._pairs | self._forgotten
        for pair in pairs:
            pair.close()

    def connections(self) -> int:
        """How many connections are handed on at this moment."""
        with self._lock:
            return len(self._pairs)

    def relay(self, client: socket.socket) -> None:
        """Hand on what both sides of a new connection say; a server that is away refuses it."""
        try:
            server = socket.create_connection(self.address)
        except OSError:
            client.close()
            return
        for one in (client, server):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pair = _Pair(client, server)
        with self._lock:
            self._pairs.add(pair)
            if not self._is_silent:
                pair.gate.set()
        for here, there in ((client, server), (server, client)):
            threading.Thread(target=self._pump, args=(pair, here, there), daemon=True).start()

    def _pump(self, pair: _Pair, here: socket.socket, there: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                said = here.recv(_CHUNK_BYTES)
                pair.gate.wait()
                if not said:
                    break
                there.sendall(said)
        with contextlib.suppress(OSError):
            there.shutdown(socket.SHUT_WR)
        self._leave(pair)

    def _leave(self, pair: _Pair) -> None:
        """The last of the two directions closes the sockets."""
        with self._lock:
            pair.left -= 1
            if pair.left:
                return
            self._pairs.discard(pair)
            self._forgotten.discard(pair)
        pair.client.close()
        pair.server.close()


@contextmanager
def silent_proxy(host: str, port: int) -> Iterator[SilentProxy]:
    """A proxy on a port of its own for the server at an address."""
    with socket.create_server((_LOOPBACK, 0), backlog=64) as listening:
        proxy = SilentProxy(listening.getsockname()[1], (host, port))
        threading.Thread(target=_accept, args=(listening, proxy), daemon=True).start()
        try:
            yield proxy
        finally:
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
            proxy.close()


def _accept(listening: socket.socket, proxy: SilentProxy) -> None:
    with contextlib.suppress(OSError):  # the test is over
        while True:
            client, _ = listening.accept()
            proxy.relay(client)
