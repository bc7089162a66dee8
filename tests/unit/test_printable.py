"""What strangers write stays on its line: in logs, in errors, on a terminal."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from aggregator.collectors.outcome import failed
from aggregator.collectors.protocol import Target
from aggregator.known_secrets import remember_secrets, remember_url
from aggregator.logs import configure_logging
from aggregator.printable import on_one_line

#: A new line that looks like one of ours, a terminal's colours, title and erasing, and a turned direction.
FORGED = "x\r\n2026-01-01 level='info' event='all_is_well'\x1b[2J\x1b]0;title\x07\x9b1m\u202egnol\u2028\x00"


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@given(st.text())
def test_any_text_becomes_one_printable_line(text: str) -> None:
    assert on_one_line(text).isprintable()
    assert not text.isprintable() or on_one_line(text) == text


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_forged_line_stays_within_its_own(log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", log_format)  # type: ignore[arg-type] # one of the two
    structlog.get_logger("a").warning("scrape_rejected", reason=FORGED, labels={"a": FORGED}, **{"key\nforged": 1})
    logging.getLogger("library").warning("it said %s", FORGED)
    try:
        int(FORGED)
    except ValueError:
        structlog.get_logger("a").exception("task_failed")
    written = capsys.readouterr().err
    lines = written.removesuffix("\n").split("\n")
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)
    if log_format == "json":
        assert json.loads(lines[0])["reason"] == FORGED


def test_a_failure_in_a_strangers_words_is_one_line() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    one = failed(Target(1, "a", ()), started_at=at, duration_seconds=0.0, reason="http_status", error=FORGED)
    assert (one.error or "").isprintable()


def test_what_is_known_to_be_secret_is_hidden_wherever_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "text")
    remember_url("postgresql://u:hunter2%2Fof%20logs@h/d")
    remember_secrets("bearer-token-of-logs", "short")
    logger = structlog.get_logger("a")
    logger.info("sent", headers={"Authorization": "Bearer bearer-token-of-logs"}, words=["hunter2/of logs", "short"])
    try:
        int("connecting with hunter2/of logs failed, and hunter2%2Fof%20logs too")
    except ValueError:
        logger.exception("failed")
    text = capsys.readouterr().err
    assert "hunter2" not in text
    assert "bearer-token-of-logs" not in text
    assert "short" in text  # too short to tell it from a word
