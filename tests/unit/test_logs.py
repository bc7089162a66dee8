"""Log lines: one JSON object or one line of text each, in UTC, without secrets."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import pytest
import structlog

from aggregator.log_repeats import MOST_KEYS, PERIOD_SECONDS, RepeatsHandler
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
    configure_logging("info", "text")
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


HOSTILE = "a\nlevel='error' event='forged'\r\x1b[31m\x85\u2028{}"


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("library", [False, True])
def test_no_value_can_begin_a_line_or_colour_a_screen(
    capsys: pytest.CaptureFixture[str], log_format: Literal["text", "json"], *, library: bool
) -> None:
    configure_logging("info", log_format)
    if library:
        logging.getLogger("kombu").error("it said: %s", HOSTILE)
    else:
        structlog.get_logger("a").error("scrape_rejected", reason=HOSTILE, labels={"path": HOSTILE})
    written = capsys.readouterr().err
    assert written.endswith("\n")
    assert all(character.isprintable() for character in written[:-1])


def test_a_librarys_traceback_is_a_field_of_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    try:
        int("x")
    except ValueError:
        logging.getLogger("celery").exception("it failed")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["exception"].startswith("Traceback")


def test_auto_is_json_unless_somebody_looks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    configure_logging("info")
    structlog.get_logger("a").info("started")
    assert json.loads(capsys.readouterr().err)["event"] == "started"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    configure_logging("info")
    structlog.get_logger("a").info("started")
    assert capsys.readouterr().err.startswith("timestamp=")


@dataclass
class Repeating:
    """Logs into a handler whose clock a test sets."""

    now: float = 0.0

    def __post_init__(self) -> None:
        configure_logging("info", "json")
        self.handler = RepeatsHandler(lambda: self.now)
        self.handler.setFormatter(logging.getLogger().handlers[0].formatter)
        logging.getLogger().handlers[:] = [self.handler]
        self.log = structlog.get_logger("a")


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_repeated_line_is_written_once_and_counted_when_its_minute_is_over(
    capsys: pytest.CaptureFixture[str],
) -> None:
    repeating = Repeating()
    for number in range(5):
        repeating.now = number
        repeating.log.warning("task_failed", error="no server", task_id=str(number), slot=number)
    assert len(lines(capsys)) == 1
    repeating.now = PERIOD_SECONDS
    repeating.log.info("started")
    counted, started = lines(capsys)
    assert (counted["event"], counted["repeated"], counted["task_id"]) == ("task_failed", 4, "4")
    assert started["event"] == "started"
    repeating.log.warning("task_failed", error="no server", task_id="6")
    (again,) = lines(capsys)
    assert "repeated" not in again


def test_an_error_that_changes_is_not_swallowed(capsys: pytest.CaptureFixture[str]) -> None:
    repeating = Repeating()
    for error in ("no server", "no room", "no server"):
        repeating.log.warning("task_failed", error=error)
        repeating.log.warning("task_failed", error=error, source=error)
        repeating.log.error("task_failed", error=error)
    assert len(lines(capsys)) == 6


def test_repeats_of_libraries_are_counted_too_and_said_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    repeating = Repeating()
    for _ in range(3):
        logging.getLogger("kombu").error("no broker at %s", "x")
    repeating.handler.close()
    first, counted = lines(capsys)
    assert first["event"] == counted["event"] == "no broker at x"
    assert counted["repeated"] == 2


def test_what_is_remembered_of_repeats_is_bounded_and_loses_no_count(capsys: pytest.CaptureFixture[str]) -> None:
    repeating = Repeating()
    for number in range(MOST_KEYS + 10):
        for _ in range(2):
            repeating.log.warning("task_failed", error=str(number))
    assert len(repeating.handler._seen) <= MOST_KEYS + 1
    repeating.handler.close()
    found = lines(capsys)
    assert len(found) == 2 * (MOST_KEYS + 10)
    assert sum(line.get("repeated") == 1 for line in found) == MOST_KEYS + 10
