"""A target whose values are known: steps of the time, alike for whoever scrapes it and at whatever instant.

A window has three parts; all values stand still within a part. In every third window the target goes down for a sixth
of a window and comes back as a new process: its counters begin again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PARTS = 3
#: Where counters stand when the process starts: so far from 0 that extrapolation is not cut short there.
FLOOR = 10_000
BOUNDS = (0.1, 0.5, 1.0, 5.0)
_RESTARTS_EACH = 3


@dataclass(frozen=True)
class Steps:
    """What the target shows at an instant. `window_seconds`: how long a window is; they are multiples of it."""

    window_seconds: float

    def is_down(self, at: float) -> bool:
        """Whether it cannot be reached: in the first half of the middle part of every third window."""
        window, inside = divmod(at, self.window_seconds)
        share = inside / self.window_seconds
        return self.restarts_in(int(window)) and 1 / PARTS <= share < 1 / PARTS + 1 / 6

    def restarts_in(self, window: int) -> bool:
        """Whether it goes down in a window, counted from the epoch."""
        return window % _RESTARTS_EACH == 1

    def exposition(self, at: float) -> str:
        """The body at an instant, in seconds since the epoch."""
        part = int(at // (self.window_seconds / PARTS))
        inner = self._counted(part, at_edges=False)
        lines = [
            "# TYPE wave gauge",
            f"wave {(part * 7_919) % 1_000 / 8 - 50}",
            "# TYPE high gauge",
            f"high {10**15 + part % 50}",
            "# TYPE inner_total counter",
            f"inner_total {inner}",
            "# TYPE edge_total counter",
            f"edge_total {self._counted(part, at_edges=True)}",
            "# TYPE falling_total counter",
            f"falling_total {FLOOR + part % (2 * PARTS)}",
            "# TYPE seconds histogram",
            *(f'seconds_bucket{{le="{bound}"}} {count}' for bound, count in self._buckets(part)),
            f"seconds_sum {inner / 2}",
            f"seconds_count {inner}",
            "# TYPE quantiles summary",
            f'quantiles{{quantile="0.5"}} {part % 17 / 4}',
            "# TYPE untyped untyped",
            f"untyped {part % 11}",
        ]
        return "\n".join(lines) + "\n"

    def _counted(self, part: int, *, at_edges: bool) -> int:
        """A counter that rises with each part since the last start, or with those alone that begin inside a window."""
        start = self._last_start(part)
        return FLOOR + sum(_rise(one) for one in range(start, part + 1) if at_edges or one % PARTS)

    def _last_start(self, part: int) -> int:
        cycle = PARTS * _RESTARTS_EACH
        return (part - PARTS - 1) // cycle * cycle + PARTS + 1

    def _buckets(self, part: int) -> Iterator[tuple[str, int]]:
        """Cumulative counts; what is observed changes with each part."""
        parts = [one for one in range(self._last_start(part), part + 1) if one % PARTS]
        count = 0
        for place, bound in enumerate((*map(str, BOUNDS), "+Inf"), start=1):
            count += FLOOR + sum(one * (place + 2) % 7 for one in parts)
            yield bound, count


def _rise(part: int) -> int:
    return part * 31 % 97 + 1


@contextmanager
def serving(steps: Steps) -> Iterator[str]:
    """Serve on a free port of loopback; gives its address. While it is down, connections are closed unanswered."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            now = time.time()
            if steps.is_down(now):
                self.close_connection = True
                return
            body = steps.exposition(now).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
