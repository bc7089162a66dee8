"""Log lines: static event names with fields, in UTC, to stderr, one line each, as text or JSON (docs/logs.md)."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any, Literal
from urllib.parse import urlsplit

import structlog

from aggregator.known_secrets import HIDDEN, hide_known
from aggregator.log_repeats import RepeatsHandler
from aggregator.printable import on_one_line

Level = Literal["debug", "info", "warning", "error"]
#: auto: text on a terminal, JSON where something else reads it.
Format = Literal["auto", "text", "json"]
Event = MutableMapping[str, Any]

_SECRET_WORDS = ("password", "passwd", "secret", "token", "credential")


def configure_logging(level: Level, log_format: Format = "auto") -> None:
    """Send this process' log lines, ours and those of libraries, to stderr; a second call replaces the first.

    A line that comes again and again is written once a minute (`aggregator.log_repeats`). Fields whose name says that
    they are secret, passwords within URLs, and what this process knows to be secret are hidden.
    """
    shared = _shared_processors()
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,  # a worker configures again after it has forked
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[take_repeated, *shared],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_endings(log_format)],
    )
    handler = RepeatsHandler()
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for replaced in root.handlers:
        if isinstance(replaced, RepeatsHandler):
            replaced.close()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def _shared_processors() -> list[structlog.types.Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        hide_secrets,
    ]


def _endings(log_format: Format) -> Iterable[structlog.types.Processor]:
    """What makes a line of the fields. Both escape control characters: no value can begin a line or colour a screen."""
    if log_format == "json" or (log_format == "auto" and not sys.stderr.isatty()):
        return [_safe(structlog.processors.JSONRenderer(default=str))]
    renderer = structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"], drop_missing=True)
    return [_safe(renderer)]


def _safe(render: Callable[[object, str, Event], str | bytes]) -> structlog.types.Processor:
    """Last of all, so that what is secret, or no part of a line, is found wherever a library has put it."""

    def line(logger: object, method: str, event: Event) -> str:
        rendered = render(logger, method, event)
        return on_one_line(hide_known(rendered if isinstance(rendered, str) else rendered.decode()))

    return line


def take_repeated(_logger: object, _method: str, event: Event) -> Event:
    """How many lines a library's line stands for, as a field."""
    record = event.get("_record")
    if (repeated := getattr(record, "repeated", None)) is not None:
        event["repeated"] = repeated
    return event


def hide_secrets(_logger: object, _method: str, event: Event) -> Event:
    """Replace what must not be in a log: it is read, shipped and kept by others."""
    for name, value in event.items():
        if any(word in name.lower() for word in _SECRET_WORDS):
            event[name] = HIDDEN
        elif isinstance(value, str) and "://" in value:
            event[name] = " ".join(_without_password(word) for word in value.split(" "))
    return event


def _without_password(word: str) -> str:
    try:
        password = urlsplit(word).password
    except ValueError:
        return word
    return word.replace(f":{password}@", f":{HIDDEN}@") if password else word
