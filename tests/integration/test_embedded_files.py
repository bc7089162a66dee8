"""Lock, logs and status of `aggregator up`, on real files, processes and sockets."""

from __future__ import annotations

import json
import socketserver
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import StringIO
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from aggregator.embedded import status_poll
from aggregator.embedded.live_screen import drawn
from aggregator.embedded.lock import data_directory_lock
from aggregator.embedded.log_files import SIZE_LIMIT_BYTES, LogFiles
from aggregator.embedded.ports import free_port
from aggregator.embedded.status_poll import read_status
from aggregator.errors import EnvironmentRefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STATUS = {
    "problems": ["source shop is stale"],
    "sources": [{"name": "host", "series": 100}, {"name": "shop", "series": None}],
    "tiers": [{"name": "1m", "newest_bucket": "2026-11-23T00:00:00Z", "lag_seconds": 3.4, "backlog": 0}],
    "glance": [{"instance": "[web1]", "cpu_busy_ratio": 0.03, "load1": 0.2, "more": 1}],
}


def test_the_lock_is_exclusive_and_names_its_holder(tmp_path: Path) -> None:
    refused = pytest.raises(EnvironmentRefusedError, match=r"runs already.*process \d+")
    with data_directory_lock(tmp_path), refused, data_directory_lock(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_the_lock_of_a_killed_process_is_free_and_known_to_be_left(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from aggregator.embedded.lock import data_directory_lock\n"
        "with data_directory_lock(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path], check=False)
    with data_directory_lock(tmp_path) as was_left:
        assert was_left
    with data_directory_lock(tmp_path) as was_left:
        assert not was_left


def test_a_log_is_cut_at_its_limit_while_its_child_writes_on(tmp_path: Path) -> None:
    logs = LogFiles(tmp_path / "log")
    with logs.append("web") as child:
        child.write(b"x" * SIZE_LIMIT_BYTES + b"\nlast\n")
        child.flush()
        logs.limit()
        child.write(b"next\n")
        child.flush()
    assert logs.path("web").read_bytes() == b"next\n"
    assert (tmp_path / "log" / "web.log.1").stat().st_size == SIZE_LIMIT_BYTES + 6
    assert logs.new_lines() == ["web: next"]


def test_logs_are_followed_by_whole_lines_from_now_on(tmp_path: Path) -> None:
    (tmp_path / "web.log").write_text("of yesterday\n")
    logs = LogFiles(tmp_path)
    with logs.append("web") as child:
        child.write(b"one\ntwo\nthr")
        child.flush()
        assert logs.new_lines() == ["web: one", "web: two"]
        child.write(b"ee\n")
        child.flush()
        assert logs.new_lines() == ["web: three"]
    assert logs.last_line("web") == "three"


@pytest.fixture(autouse=True)
def _answers_may_be_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_poll, "_TIMEOUT_SECONDS", 30.0)


@contextmanager
def answering(status: int, body: bytes) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=socketserver.BaseServer.handle_request, args=(server,))
        thread.start()
        yield server.server_address[1]
        thread.join()


def test_the_status_is_read_and_drawn() -> None:
    with answering(200, json.dumps(STATUS).encode()) as port:
        report = read_status("127.0.0.1", port)
    assert report
    assert report.series == 100
    text = StringIO()
    Console(file=text, width=100).print(drawn(report))
    for words in ("[web1]", "3 %", "0.20", "1m", "2026-11-23T00:00:00Z", "3 s", "source shop is stale", "100 series"):
        assert words in text.getvalue()


@pytest.mark.parametrize(
    ("status", "body"),
    [(503, b"{}"), (200, b"not json"), (200, b"[]"), (200, b'{"tiers": [1]}'), (200, b'{"glance": 3}')],
)
def test_an_answer_that_is_none_is_no_status(status: int, body: bytes) -> None:
    with answering(status, body) as port:
        assert read_status("127.0.0.1", port) is None


def test_no_answer_is_no_status() -> None:
    assert read_status("127.0.0.1", free_port()) is None
