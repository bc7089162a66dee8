"""Log lines: one JSON object or one line of text each, in UTC, without secrets."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import pytest
import structlog

from aggregator.logs import configure_logging

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_json_lines_have_event_level_time_and_fields(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    structlog.get_logger("a").warning("scrape_rejected", target=1, reason="timeout")
    logging.getLogger("b").info("from %s", "a library")
    structlog.get_logger("a").debug("not_shown")
    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert first.pop("timestamp").endswith("Z")
    assert first == {"event": "scrape_rejected", "level": "warning", "logger": "a", "target": 1, "reason": "timeout"}
    assert second["event"] == "from a library"


def test_text_lines_begin_with_time_level_and_event(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info")
    structlog.get_logger("a").error("failed", why="no room")
    line = capsys.readouterr().err
    assert line.startswith("timestamp='")
    assert " level='error' event='failed' " in line


def test_secrets_are_hidden_by_name_and_within_urls(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    logger = structlog.get_logger("a")
    logger.info("started", url="postgresql://u:hunter2@h/x", db_password="hunter2", note="at amqp://u:hunter2@h// now")
    logging.getLogger("kombu").info("Connected to %s", "redis://:hunter2@h/0")
    text = capsys.readouterr().err
    assert "hunter2" not in text
    assert "postgresql://u:***@h/x" in text


def test_an_exception_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    try:
        int("x")
    except ValueError:
        structlog.get_logger("a").exception("task_failed")
    (line,) = capsys.readouterr().err.splitlines()
    assert "ValueError: invalid literal" in json.loads(line)["exception"]
