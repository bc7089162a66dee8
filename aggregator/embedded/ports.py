"""Whether a port is free, who has it, and which setting chooses another."""

from __future__ import annotations

import contextlib
import errno
import random
import socket

import psutil

from aggregator.errors import EnvironmentRefusedError

LOOPBACK = "127.0.0.1"
#: From here to there: above what well-known services use, below the usual ephemeral range (32768 and up).
_PORTS = (15_000, 32_000)
_handed_out: set[int] = set()


def free_port() -> int:
    """A port of the loopback address that nobody listens on just now.

    It lies below the range from which outgoing connections get theirs, or one of them might have it a moment later.
    Who was given one may listen on it later only: no two calls of a process give the same.
    """
    while True:
        port = random.randrange(*_PORTS)  # noqa: S311 - nothing is secured by it
        if port in _handed_out:
            continue
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
            probe.bind((LOOPBACK, port))
            _handed_out.add(port)
            return port


def require_free(host: str, port: int, *, what: str, setting: str) -> None:
    """Raise EnvironmentRefusedError, naming the holder and the setting, unless `what` can listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: TIME_WAIT is not in the way
        try:
            probe.bind((host, port))
        except OSError as error:
            raise _refusal(error, host, port, what=what, setting=setting) from None


def _refusal(error: OSError, host: str, port: int, *, what: str, setting: str) -> EnvironmentRefusedError:
    if error.errno == errno.EADDRINUSE:
        return EnvironmentRefusedError(
            f"port {port}, where {what} is to listen, is taken by {_holder(port)};"
            f" stop that, or set {setting} to a free one"
        )
    return EnvironmentRefusedError(f"{what} cannot listen on {host}:{port}: {error.strerror}; change {setting}")


def _holder(port: int) -> str:
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    return "another process"


def listen_address(listen: str) -> tuple[str, int]:
    """Host and port of a `host:port` setting; `[::1]:9810` has an IPv6 address."""
    host, _, port = listen.rpartition(":")
    if not port.isdigit():
        raise EnvironmentRefusedError(f"{listen!r} is no address to listen on; write 127.0.0.1:9810")
    return host.strip("[]") or LOOPBACK, int(port)
