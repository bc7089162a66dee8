"""A server on loopback that answers each path in its own bad way, as targets do."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

GOOD = b"# TYPE a_total counter\na_total 5\nb 1.5\n"
MOST_SECONDS = 60


@cache
def _bomb() -> bytes:
    return gzip.compress(b"\n" * 50_000_000)


class Hostile(BaseHTTPRequestHandler):
    """Answers each path in its own bad way."""

    protocol_version = "HTTP/1.1"
    seen: ClassVar[list[dict[str, str]]] = []
    release: ClassVar[threading.Event] = threading.Event()
    bodies: ClassVar[dict[str, bytes]] = {}

    def log_message(self, *_args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self.seen.append({name.lower(): value for name, value in self.headers.items()})
        path = self.path.partition("?")[0].strip("/")
        answer: Callable[[], None] = getattr(self, f"_{path.partition('/')[0]}", self._good)
        answer()
        self.close_connection = True

    def _send(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        named = {"Content-Type": "text/plain; version=0.0.4", "Content-Length": str(len(body))}
        for name, value in {**named, **{n.replace("_", "-"): v for n, v in headers.items()}}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _good(self) -> None:
        self._send(self.bodies.get(self.path, GOOD))

    def _gzipped(self) -> None:
        self._send(gzip.compress(GOOD[:10]) + gzip.compress(GOOD[10:]), Content_Encoding="gzip")

    def _slow(self) -> None:
        self.release.wait(MOST_SECONDS)
        self._send(GOOD)

    def _dribble(self) -> None:
        self.send_response(200)
        self.end_headers()
        while not self.release.wait(0.02):
            self.wfile.write(b"#")

    def _huge(self) -> None:
        self._send(b"a 1\n" * 30_000)

    def _bomb(self) -> None:
        self._send(_bomb(), Content_Encoding="gzip")

    def _brotli(self) -> None:
        self._send(GOOD, Content_Encoding="br")

    def _lie(self) -> None:
        self._send(GOOD, Content_Encoding="gzip")

    def _halfzip(self) -> None:
        self._send(gzip.compress(GOOD)[:-12], Content_Encoding="gzip")

    def _short(self) -> None:
        self._send(GOOD, Content_Length=str(len(GOOD) + 100))

    def _cut(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"a 12345"[:3])

    def _latin(self) -> None:
        self._send(b'a{b="\xe4"} 1\n')

    def _html(self) -> None:
        self._send(b"<html><body>a 1\n</body></html>\n", Content_Type="text/html")

    def _page(self) -> None:
        self._send(b"<html>\n<body>a 1</body>\n</html>\n")

    def _moved(self) -> None:
        self._send(b"", status=302, Location="http://user:hidden@127.0.0.1:1/metrics?token=hidden")

    def _gone(self) -> None:
        self._send(b"gone", status=503)

    def _hangup(self) -> None:
        self.connection.close()

    def _gibberish(self) -> None:
        self.wfile.write(b"\x00\x01 not HTTP\r\n\r\n")


class Server(ThreadingHTTPServer):
    """A thread for each connection, and room for a hundred that come at once."""

    daemon_threads = True
    request_queue_size = 256


@contextmanager
def hostile_server() -> Iterator[str]:
    """The address of a hostile server on loopback."""
    Hostile.seen.clear()
    Hostile.release.clear()
    Hostile.bodies.clear()
    listening = Server(("127.0.0.1", 0), Hostile)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{listening.server_port}"
    finally:
        Hostile.release.set()
        listening.shutdown()
        listening.server_close()
