"""A real target: a small HTTP server whose counter and gauges are functions of the time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_PAGE = """# TYPE scraped_requests_total counter
scraped_requests_total{{code="200"}} {often}
scraped_requests_total{{code="500"}} {seldom}
# TYPE scraped_depth gauge
scraped_depth {depth}
"""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        now = time.time()
        # A counter that is reset every ten minutes, as a target that is restarted.
        body = _PAGE.format(often=int(now * 10) % 6_000, seldom=int(now), depth=now % 60).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True


@contextmanager
def target() -> Iterator[str]:
    """The URL of a target on loopback."""
    listening = _Server(("127.0.0.1", 0), _Handler)
    threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}/metrics"
    finally:
        listening.shutdown()
        listening.server_close()
