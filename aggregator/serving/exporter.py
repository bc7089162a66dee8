"""The exporter of a worker node: a lean process that serves `/metrics` of what that node did.

Run it as `python -m aggregator.serving.exporter --listen 127.0.0.1:9811 --directory DIR`. It ends with its parent.
"""

from __future__ import annotations

import argparse
import gzip
import os
import signal
import socket
import sys
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client.exposition import gzip_accepted

from aggregator.errors import AggregatorError
from aggregator.serving.exposed import node_metrics
from aggregator.serving.listen import parse_listen, refusal
from aggregator.serving.parent import follow_parent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: How long one client may take in all, however it dribbles.
CONNECTION_SECONDS = 10.0
MOST_CONNECTIONS = 16
#: How often the exporter looks whether its parent lives and which connections have taken too long.
TICK_SECONDS = 1.0


class Exporter(ThreadingHTTPServer):
    """An HTTP server that serves one node's metrics, each connection in a short-lived thread of its own."""

    daemon_threads = True
    request_queue_size = 64
    block_on_close = False

    def __init__(self, address: tuple[str, int], *, directory: Path, is_parent_alive: Callable[[], bool]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.metrics = node_metrics(directory)
        self._is_parent_alive = is_parent_alive
        self._begun: dict[socket.socket, float] = {}
        self._guard = threading.Lock()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind without asking DNS for this machine's name, and although connections of one that was killed linger."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        socket.socket.bind(self.socket, self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ANN401, ARG002 - the base class' types
        """Refuse a connection beyond the bound, so that no crowd can exhaust the process."""
        with self._guard:
            if len(self._begun) >= MOST_CONNECTIONS:
                return False
            self._begun[request] = time.monotonic()
            return True

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401 - as above
        """Close a connection and give its place back."""
        with self._guard:
            self._begun.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Cut off clients that have taken too long; end when the parent has."""
        limit = time.monotonic() - CONNECTION_SECONDS
        with self._guard:
            for request, begun in self._begun.items():
                if begun < limit:
                    _cut_off(request)
        if not self._is_parent_alive():
            raise SystemExit(0)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401, ARG002 - as above
        """A client that went away is no error of ours; anything else is one line on stderr."""
        error = sys.exception() if sys.version_info >= (3, 12) else sys.exc_info()[1]
        if not isinstance(error, OSError):
            sys.stderr.write(f"exporter: a request failed: {type(error).__name__}: {error}\n")


def _cut_off(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it has gone by itself


class _Handler(BaseHTTPRequestHandler):
    server: Exporter
    server_version = "aggregator-exporter"
    sys_version = ""
    timeout = CONNECTION_SECONDS

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._send_metrics()
        elif path == "/-/healthy":
            self._send(HTTPStatus.OK, b"ok\n")
        else:
            self._send(HTTPStatus.NOT_FOUND, b"not found; metrics are at /metrics\n")

    do_HEAD = do_GET  # noqa: N815 - the base class' name

    def _send_metrics(self) -> None:
        body, content_type = self.server.metrics(self.headers.get("Accept", ""))
        if gzip_accepted(self.headers.get("Accept-Encoding", "")):
            self._send(HTTPStatus.OK, gzip.compress(body, compresslevel=5), content_type, encoding="gzip")
        else:
            self._send(HTTPStatus.OK, body, content_type)

    def _send(
        self, status: HTTPStatus, body: bytes, content_type: str = "text/plain; charset=utf-8", *, encoding: str = ""
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Vary", "Accept, Accept-Encoding")
        if encoding:
            self.send_header("Content-Encoding", encoding)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Keep quiet: a scrape every few seconds is no news."""


def open_exporter(listen: str, *, directory: Path, is_parent_alive: Callable[[], bool] = lambda: True) -> Exporter:
    """An exporter that is bound and not yet serving.

    Raises EnvironmentRefusedError where the port is taken or the address is not this machine's.
    """
    address = parse_listen(listen)
    directory.mkdir(parents=True, exist_ok=True)
    try:
        return Exporter(address, directory=directory, is_parent_alive=is_parent_alive)
    except OSError as error:
        remedy = "a second worker on one host needs its own"
        raise refusal(
            error, what="exporter", listen=listen, setting="AGGREGATOR_EXPORTER_LISTEN", remedy=remedy
        ) from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal or the end of the parent process; gives the exit code."""
    parser = argparse.ArgumentParser(prog="aggregator.serving.exporter", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--listen", default="127.0.0.1:9811", metavar="HOST:PORT")
    parser.add_argument("--directory", required=True, type=Path, help="where the node's processes keep their metrics")
    parser.add_argument("--parent", type=int, default=os.getppid(), help="end with this process; 0: with none")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _leave)
    try:
        is_parent_alive = follow_parent(options.parent)
        with open_exporter(options.listen, directory=options.directory, is_parent_alive=is_parent_alive) as exporter:
            exporter.serve_forever(poll_interval=TICK_SECONDS)
    except AggregatorError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def _leave(_signal: int, _frame: object) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    raise SystemExit(main())
